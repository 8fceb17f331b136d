/* Every form of store that a program may use on a producer port, each carrying one or four elements. */
#include <immintrin.h>

#include "client.h"

static struct client_port port;
static unsigned failures;

static void fill(struct pdlb_qe line[4], uint64_t first, unsigned count) {
  memset(line, 0, 4 * sizeof line[0]);
  for (unsigned i = 0; i < count; i++) {
    line[i] = (struct pdlb_qe){.data = first + i, .qid = (uint8_t)port.id, .sched = 3, .command = PDLB_QE_NEW};
  }
}

static void expect(const char *form, uint64_t first, unsigned count) {
  struct pdlb_qe qe;
  unsigned received = 0;
  while (client_receive(&port, &qe)) {
    if (qe.data != first + received) failures++;
    received++;
  }
  if (received != count || failures != 0) {
    fprintf(stderr, "%s: %u of %u elements, %u wrong\n", form, received, count, failures);
    exit(1);
  }
  if (count > 0) client_return_tokens(&port, count);
}

typedef void (*store_form)(void *to, const void *from);

/* 16 bytes. */
#define FORM_16(name, text)                                                              \
  static void name(void *to, const void *from) {                                         \
    __asm__ volatile(text::"r"(to), "r"(from) : "memory", "xmm0", "xmm9", "rax", "rdx"); \
  }
FORM_16(movntdq, "movdqu (%1), %%xmm0; movntdq %%xmm0, (%0)")
FORM_16(movntdq_high_register, "movdqu (%1), %%xmm9; movntdq %%xmm9, 0x40(%0)")
FORM_16(movaps, "movups (%1), %%xmm0; movaps %%xmm0, 0x80(%0)")
FORM_16(movups, "movups (%1), %%xmm0; movups %%xmm0, 0x200(%0)")
FORM_16(movdqa, "movdqu (%1), %%xmm0; movdqa %%xmm0, (%0)")
FORM_16(movdqu, "movdqu (%1), %%xmm0; movdqu %%xmm0, (%0)")
FORM_16(movntps, "movups (%1), %%xmm0; movntps %%xmm0, (%0)")
FORM_16(movntpd, "movups (%1), %%xmm0; movntpd %%xmm0, (%0)")
FORM_16(two_movq, "mov (%1), %%rax; mov 8(%1), %%rdx; mov %%rax, (%0); mov %%rdx, 8(%0)")
FORM_16(two_movq_backwards, "mov (%1), %%rax; mov 8(%1), %%rdx; mov %%rdx, 8(%0); mov %%rax, (%0)")
FORM_16(two_movnti, "mov (%1), %%rax; mov 8(%1), %%rdx; movnti %%rax, (%0); movnti %%rdx, 8(%0)")
FORM_16(movlps_movhps, "movups (%1), %%xmm0; movlps %%xmm0, (%0); movhps %%xmm0, 8(%0)")
FORM_16(movq_movhpd, "movups (%1), %%xmm0; movq %%xmm0, (%0); movhpd %%xmm0, 8(%0)")
FORM_16(movsd_pieces, "movups (%1), %%xmm0; movsd %%xmm0, (%0); movhps %%xmm0, 8(%0)")
FORM_16(four_movl,
        "mov (%1), %%eax; mov %%eax, (%0); mov 4(%1), %%eax; mov %%eax, 4(%0);"
        "mov 8(%1), %%eax; mov %%eax, 8(%0); mov 12(%1), %%eax; mov %%eax, 12(%0)")
FORM_16(movdiri_twice,
        "mov (%1), %%rax; mov 8(%1), %%rdx; .byte 0x48, 0x0f, 0x38, 0xf9, 0x07;"
        ".byte 0x48, 0x0f, 0x38, 0xf9, 0x57, 0x08")

static void by_bytes(void *to, const void *from) {
  for (int i = 0; i < 16; i++) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
}

static void by_high_bytes(void *to, const void *from) {
  for (int i = 0; i < 16; i++) {
    const unsigned value = (unsigned)((const uint8_t *)from)[i] << 8;
    __asm__ volatile("movb %%ah, (%0)" ::"r"((char *)to + i), "a"(value) : "memory");
  }
}

static void by_words(void *to, const void *from) {
  for (int i = 0; i < 8; i++) ((volatile uint16_t *)to)[i] = ((const uint16_t *)from)[i];
}

static void by_memcpy_16(void *to, const void *from) { memcpy(to, from, 16); }

/* 64 bytes. */
__attribute__((target("avx"))) static void vmovntdq_ymm(void *to, const void *from) {
  __asm__ volatile(
      "vmovdqu (%1), %%ymm3; vmovdqu 32(%1), %%ymm12; vmovntdq %%ymm3, (%0); vmovntdq %%ymm12, 32(%0)" ::"r"(to),
      "r"(from)
      : "memory", "xmm3", "xmm12");
}

__attribute__((target("avx"))) static void vmovups_ymm(void *to, const void *from) {
  __asm__ volatile(
      "vmovups (%1), %%ymm3; vmovups 32(%1), %%ymm12; vmovups %%ymm3, (%0); vmovaps %%ymm12, 32(%0)" ::"r"(to),
      "r"(from)
      : "memory", "xmm3", "xmm12");
}

__attribute__((target("avx"))) static void vmovdqu_xmm(void *to, const void *from) {
  for (int i = 0; i < 4; i++) {
    __asm__ volatile("vmovdqu (%1), %%xmm8; vmovdqu %%xmm8, (%0)" ::"r"((char *)to + 16 * i),
                     "r"((const char *)from + 16 * i)
                     : "memory", "xmm8");
  }
}

__attribute__((target("avx512f"))) static void vmovdqu64_zmm(void *to, const void *from) {
  __asm__ volatile("vmovdqu64 (%1), %%zmm5; vmovdqu64 %%zmm5, (%0)" ::"r"(to), "r"(from) : "memory", "xmm5");
}

__attribute__((target("avx512f"))) static void vmovntdq_zmm_upper(void *to, const void *from) {
  __asm__ volatile("vmovdqu64 (%1), %%zmm21; vmovntdq %%zmm21, (%0)" ::"r"(to), "r"(from) : "memory", "xmm21");
}

__attribute__((target("avx512vl"))) static void vmovdqu64_ymm_upper(void *to, const void *from) {
  __asm__ volatile(
      "vmovdqu64 (%1), %%ymm18; vmovdqu64 32(%1), %%ymm19; vmovdqu64 %%ymm18, (%0); vmovups %%ymm19, 32(%0)" ::"r"(to),
      "r"(from)
      : "memory", "xmm18", "xmm19");
}

/* Written out, so that the form is tried wherever the processor traps on the page before it looks at its features. */
static void movdir64b(void *to, const void *from) {
  __asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x02" ::"a"(to), "d"(from) : "memory");
}

static void movdir64b_indexed(void *to, const void *from) {
  __asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x44, 0xd1, 0xf0" ::"a"(to), "c"((const char *)from + 16 - 40),
                   "d"(5UL)
                   : "memory");
}

static void rep_movsb(void *to, const void *from) {
  size_t count = 64;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
}

static void rep_movsq(void *to, const void *from) {
  size_t count = 8;
  __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
}

/* As the compiler writes it. That of the C library may store some bytes twice, which is no way to reach a device. */
static void by_memcpy_64(void *to, const void *from) { memcpy(to, from, 64); }

static const struct form {
  const char *name;
  store_form store;
  unsigned elements;
  const char *feature;
} forms[] = {
    {"movntdq", movntdq, 1, NULL},
    {"movntdq xmm9", movntdq_high_register, 1, NULL},
    {"movaps", movaps, 1, NULL},
    {"movups", movups, 1, NULL},
    {"movdqa", movdqa, 1, NULL},
    {"movdqu", movdqu, 1, NULL},
    {"movntps", movntps, 1, NULL},
    {"movntpd", movntpd, 1, NULL},
    {"two mov", two_movq, 1, NULL},
    {"two mov, upper first", two_movq_backwards, 1, NULL},
    {"two movnti", two_movnti, 1, NULL},
    {"movlps, movhps", movlps_movhps, 1, NULL},
    {"movq, movhps", movq_movhpd, 1, NULL},
    {"movsd, movhps", movsd_pieces, 1, NULL},
    {"four mov", four_movl, 1, NULL},
    {"bytes", by_bytes, 1, NULL},
    {"high bytes", by_high_bytes, 1, NULL},
    {"words", by_words, 1, NULL},
    {"memcpy of 16", by_memcpy_16, 1, NULL},
    {"vmovntdq ymm", vmovntdq_ymm, 4, "avx"},
    {"vmovups ymm", vmovups_ymm, 4, "avx"},
    {"vmovdqu xmm", vmovdqu_xmm, 4, "avx"},
    {"vmovdqu64 zmm", vmovdqu64_zmm, 4, "avx512f"},
    {"vmovntdq zmm21", vmovntdq_zmm_upper, 4, "avx512f"},
    {"vmovdqu64 ymm18", vmovdqu64_ymm_upper, 4, "avx512vl"},
    {"rep movsb", rep_movsb, 4, NULL},
    {"rep movsq", rep_movsq, 4, NULL},
    {"memcpy of 64", by_memcpy_64, 4, NULL},
    {"movdiri", movdiri_twice, 1, "movdiri"},
    {"movdir64b", movdir64b, 4, "movdir64b"},
    {"movdir64b, indexed", movdir64b_indexed, 4, "movdir64b"},
};

static int has(const char *feature) {
  unsigned a = 7, b, c = 0, d;
  if (feature == NULL) return 1;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  if (strcmp(feature, "movdiri") == 0) return c >> 27 & 1;
  if (strcmp(feature, "movdir64b") == 0) return c >> 28 & 1;
  if (strcmp(feature, "avx") == 0) return __builtin_cpu_supports("avx");
  if (strcmp(feature, "avx512f") == 0) return __builtin_cpu_supports("avx512f");
  return __builtin_cpu_supports("avx512vl");
}

int main(void) {
  const struct client client = client_open(0, 0, 1);
  uint64_t next = 1;
  port = client_dir_port(&client, 8);
  client_start(&client);
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    /* The source of a 64-byte store is read from memory: let it be the last bytes of a page. */
    static char pages[8192] __attribute__((aligned(4096)));
    struct pdlb_qe *line = (struct pdlb_qe *)(void *)(pages + 4096 - 64);
    if (!has(forms[i].feature)) {
      printf("left out, the processor has no %s: %s\n", forms[i].feature, forms[i].name);
      continue;
    }
    fill(line, next, forms[i].elements);
    forms[i].store(port.producer, line);
    expect(forms[i].name, next, forms[i].elements);
    next += forms[i].elements;
  }
  return 0;
}
