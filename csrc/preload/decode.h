/* Reads the one machine instruction that tried to store to a producer port. x86-64 only. */
#ifndef PDLB_PRELOAD_DECODE_H
#define PDLB_PRELOAD_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum store_source {
  SOURCE_VECTOR,      /* `width` bytes of vector register `reg`, from byte `skip` on */
  SOURCE_GENERAL,     /* the low `width` bytes of general register `reg`, in the processor's numbering */
  SOURCE_HIGH_BYTE,   /* bits 8-15 of general register `reg` */
  SOURCE_IMMEDIATE,   /* `immediate` */
  SOURCE_MEMORY,      /* 64 bytes at the instruction's memory operand (MOVDIR64B) */
  SOURCE_STRING_MOVE, /* at RSI, `repeat`ed RCX times */
  SOURCE_STRING_FILL, /* the accumulator, `repeat`ed RCX times */
};

struct memory_operand {
  int base, index; /* general registers, -1 for none */
  unsigned scale;
  int64_t displacement;
  bool rip_relative;
  char segment; /* 'f', 'g' or 0 */
};

struct store {
  enum store_source source;
  unsigned length; /* of the instruction */
  unsigned width;
  unsigned reg;
  unsigned skip;
  uint64_t immediate;
  bool repeat;
  struct memory_operand memory; /* where the source is, for SOURCE_MEMORY */
};

/* Reads no byte beyond the instruction's end. False if it is none that stores a register, an immediate, or memory. */
bool decode_store(const uint8_t *code, struct store *store);

#endif
