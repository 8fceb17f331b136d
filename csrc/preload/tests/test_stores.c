/* Every form of store that a program may use on a producer port, each carrying one or four elements. */
#include <cpuid.h>
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

/* Written out, so that older assemblers do. */
static void movdiri_twice(void *to, const void *from) {
  __asm__ volatile(
      "mov (%1), %%rax; mov 8(%1), %%rdx; .byte 0x48, 0x0f, 0x38, 0xf9, 0x07;"
      ".byte 0x48, 0x0f, 0x38, 0xf9, 0x57, 0x08" ::"D"(to),
      "S"(from)
      : "memory", "rax", "rdx");
}

static void movdir64b(void *to, const void *from) {
  __asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x02" ::"a"(to), "d"(from) : "memory");
}

static void movdir64b_indexed(void *to, const void *from) {
  __asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x44, 0xd1, 0xf0" ::"a"(to), "c"((const char *)from + 16 - 40),
                   "d"(5UL)
                   : "memory");
}

/* The upper half of a register by itself, as compilers do with what may not be aligned. */
__attribute__((target("avx2"))) static void vextracti128(void *to, const void *from) {
  __asm__ volatile(
      "vmovdqu (%1), %%ymm3; vmovdqu 32(%1), %%ymm12; vmovdqu %%xmm3, (%0); vextracti128 $1, %%ymm3, 16(%0);"
      "vextractf128 $0, %%ymm12, 32(%0); vextractf128 $1, %%ymm12, 48(%0)" ::"r"(to),
      "r"(from)
      : "memory", "xmm3", "xmm12");
}

__attribute__((target("sse4.1"))) static void pextrq(void *to, const void *from) {
  __asm__ volatile("movdqu (%1), %%xmm9; pextrq $0, %%xmm9, (%0); pextrq $1, %%xmm9, 8(%0)" ::"r"(to), "r"(from)
                   : "memory", "xmm9");
}

__attribute__((target("sse4.1"))) static void pextr_pieces(void *to, const void *from) {
  __asm__ volatile(
      "movdqu (%1), %%xmm0; pextrd $0, %%xmm0, (%0); extractps $1, %%xmm0, 4(%0); pextrw $4, %%xmm0, 8(%0);"
      "pextrb $10, %%xmm0, 10(%0); pextrb $11, %%xmm0, 11(%0); pextrd $3, %%xmm0, 12(%0)" ::"r"(to),
      "r"(from)
      : "memory", "xmm0");
}

__attribute__((target("movbe"))) static void movbe(void *to, const void *from) {
  __asm__ volatile(
      "mov (%1), %%rax; mov 8(%1), %%rdx; bswap %%rax; bswap %%rdx; movbe %%rax, (%0); movbe %%rdx, 8(%0)" ::"r"(to),
      "r"(from)
      : "memory", "rax", "rdx");
}

__attribute__((target("avx2"))) static void vpmaskmovq(void *to, const void *from) {
  static const uint64_t halves[4] = {0, 0, UINT64_MAX, UINT64_MAX};
  __asm__ volatile(
      "vmovdqu (%2), %%ymm2; vmovdqu (%1), %%ymm5; vmovdqu %%xmm5, (%0); vpmaskmovq %%ymm5, %%ymm2, (%0);"
      "vmovdqu 32(%1), %%ymm5; vmovdqu %%xmm5, 32(%0); vmaskmovpd %%ymm5, %%ymm2, 32(%0)" ::"r"(to),
      "r"(from), "r"(halves)
      : "memory", "xmm2", "xmm5");
}

__attribute__((target("avx512f"))) static void vextracti64x4(void *to, const void *from) {
  __asm__ volatile(
      "vmovdqu64 (%1), %%zmm20; vextracti64x4 $0, %%zmm20, (%0); vextracti32x4 $2, %%zmm20, 32(%0);"
      "vextracti32x4 $3, %%zmm20, 48(%0)" ::"r"(to),
      "r"(from)
      : "memory", "xmm20");
}

__attribute__((target("avx512f,avx512bw"))) static void masked_zmm(void *to, const void *from) {
  __asm__ volatile(
      "mov $0x0f, %%eax; kmovw %%eax, %%k3; vmovdqu64 (%1), %%zmm7; vmovdqu64 %%zmm7, (%0)%{%%k3%};"
      "mov $0xff00, %%eax; kmovw %%eax, %%k4; vmovdqu32 %%zmm7, (%0)%{%%k4%}" ::"r"(to),
      "r"(from)
      : "memory", "xmm7", "eax");
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
    {"pextrq", pextrq, 1, "sse4.1"},
    {"pextrd, pextrw, pextrb", pextr_pieces, 1, "sse4.1"},
    {"movbe", movbe, 1, "movbe"},
    {"vextracti128", vextracti128, 4, "avx2"},
    {"vpmaskmovq", vpmaskmovq, 4, "avx2"},
    {"vextracti64x4", vextracti64x4, 4, "avx512f"},
    {"vmovdqu64 with an opmask", masked_zmm, 4, "avx512bw"},
    {"rep movsb", rep_movsb, 4, NULL},
    {"rep movsq", rep_movsq, 4, NULL},
    {"memcpy of 64", by_memcpy_64, 4, NULL},
    /* On a processor without these, the emulation carries them out. */
    {"movdiri", movdiri_twice, 1, NULL},
    {"movdir64b", movdir64b, 4, NULL},
    {"movdir64b, indexed", movdir64b_indexed, 4, NULL},
};

static int has(const char *feature) {
  unsigned a, b, c = 0, d;
  if (feature == NULL) return 1;
  if (strcmp(feature, "movbe") == 0) return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_MOVBE);
  if (strcmp(feature, "sse4.1") == 0) return __builtin_cpu_supports("sse4.1");
  if (strcmp(feature, "avx") == 0) return __builtin_cpu_supports("avx");
  if (strcmp(feature, "avx2") == 0) return __builtin_cpu_supports("avx2");
  if (strcmp(feature, "avx512f") == 0) return __builtin_cpu_supports("avx512f");
  if (strcmp(feature, "avx512bw") == 0) return __builtin_cpu_supports("avx512bw");
  return __builtin_cpu_supports("avx512vl");
}

/* Programs that were built for processors with these instructions use them on ordinary memory, too. */
static void test_ordinary_memory(void) {
  static uint64_t from[8] = {1, 2, 3, 4, 5, 6, 7, 8}, to[8] __attribute__((aligned(64)));
  movdir64b(to, from);
  CHECK(memcmp(to, from, sizeof to) == 0);
  movdiri_twice(&to[2], &from[6]);
  CHECK(to[1] == 2 && to[2] == 7 && to[3] == 8 && to[4] == 5);
}

/* UMONITOR, UMWAIT, TPAUSE: they end by themselves, if only at once. */
static void test_waits(void) {
  static uint64_t watched;
  __asm__ volatile(".byte 0xf3, 0x0f, 0xae, 0xf0" ::"a"(&watched));
  __asm__ volatile(".byte 0xf2, 0x0f, 0xae, 0xf1" ::"a"(0), "d"(0), "c"(1) : "cc");
  __asm__ volatile(".byte 0x66, 0x0f, 0xae, 0xf1" ::"a"(0), "d"(0), "c"(1) : "cc");
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
  test_ordinary_memory();
  test_waits();
  return 0;
}
