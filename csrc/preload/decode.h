/* Reads the one machine instruction that tried to store to a producer port. x86-64 only. */
#ifndef PDLB_PRELOAD_DECODE_H
#define PDLB_PRELOAD_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum store_source {
  SOURCE_VECTOR,          /* `width` bytes of vector register `reg`, from byte `skip` on */
  SOURCE_GENERAL,         /* the low `width` bytes of general register `reg`, in the processor's numbering */
  SOURCE_GENERAL_SWAPPED, /* the same, the highest byte first */
  SOURCE_HIGH_BYTE,       /* bits 8-15 of general register `reg` */
  SOURCE_IMMEDIATE,       /* `immediate` */
  SOURCE_MEMORY,          /* 64 bytes at the instruction's memory operand (MOVDIR64B) */
  SOURCE_STRING_MOVE,     /* at RSI, `repeat`ed RCX times */
  SOURCE_STRING_FILL,     /* the accumulator, `repeat`ed RCX times */
};

/* Which elements of a vector are stored: all of them, or those whose bit is set in opmask register `mask_reg`, or in
 * whose place vector register `mask_reg` has its highest bit set. */
enum store_mask { MASK_NONE, MASK_OPMASK, MASK_VECTOR };

struct memory_operand {
  int base, index; /* general registers, -1 for none */
  unsigned scale;
  int64_t displacement;
  bool rip_relative, address_32;
  char segment; /* 'f', 'g' or 0 */
};

struct store {
  enum store_source source;
  unsigned length; /* of the instruction */
  unsigned width;
  unsigned reg;
  unsigned skip;
  enum store_mask mask;
  unsigned mask_reg, element; /* bytes of an element */
  uint64_t immediate;
  bool repeat;
  struct memory_operand memory; /* where the source is, for SOURCE_MEMORY */
};

/* Reads no byte beyond the instruction's end. False if it is none that stores a register, an immediate, or memory. */
bool decode_store(const uint8_t *code, struct store *store);
/* The length of an instruction that only waits for memory to change (WAITPKG); 0 for any other. */
unsigned decode_pause(const uint8_t *code);

#endif
