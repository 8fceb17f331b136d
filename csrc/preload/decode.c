#include "decode.h"

#include <string.h>

#define LONGEST 15 /* bytes that an instruction may have */

enum opcode_map { MAP_PRIMARY, MAP_0F, MAP_0F38, MAP_0F3A };

struct cursor {
  const uint8_t *at;
  const uint8_t *start;
  /* Prefixes, whichever way they were encoded. */
  enum opcode_map map;
  bool operand_16, repeat, repeat_not, wide, address_32, rex;
  bool vector, evex; /* VEX or EVEX; which of the two */
  bool displacement_8;
  unsigned opmask; /* EVEX: 0 for none */
  unsigned third;  /* VEX: the register that is neither operand */
  unsigned vector_width;
  unsigned reg_high, index_high, base_high;
  char segment;
};

static uint8_t next(struct cursor *cursor) { return *cursor->at++; }

/* ---- prefixes ------------------------------------------------------------------------------------------------ */

static void read_legacy_prefixes(struct cursor *cursor) {
  for (; cursor->at - cursor->start < LONGEST; cursor->at++) {
    switch (*cursor->at) {
      case 0x66: cursor->operand_16 = true; break;
      case 0x67: cursor->address_32 = true; break;
      case 0xF3: cursor->repeat = true; break;
      case 0xF2: cursor->repeat_not = true; break;
      case 0x64: cursor->segment = 'f'; break;
      case 0x65: cursor->segment = 'g'; break;
      case 0x26:
      case 0x2E:
      case 0x36:
      case 0x3E: break; /* segments that are flat */
      default: return;
    }
  }
}

static void set_implied_prefix(struct cursor *cursor, unsigned pp) {
  cursor->operand_16 = pp == 1;
  cursor->repeat = pp == 2;
  cursor->repeat_not = pp == 3;
}

static bool set_map(struct cursor *cursor, unsigned map) {
  if (map < MAP_0F || map > MAP_0F3A) return false;
  cursor->map = (enum opcode_map)map;
  return true;
}

static bool read_vex(struct cursor *cursor, bool three_bytes) {
  const uint8_t first = next(cursor);
  uint8_t last = first;
  bool known = true;
  cursor->vector = true;
  cursor->reg_high = first & 0x80 ? 0 : 8;
  cursor->map = MAP_0F;
  if (three_bytes) {
    cursor->index_high = first & 0x40 ? 0 : 8;
    cursor->base_high = first & 0x20 ? 0 : 8;
    known = set_map(cursor, first & 0x1F);
    last = next(cursor);
    cursor->wide = last & 0x80;
  }
  cursor->third = ~last >> 3 & 15;
  cursor->vector_width = last & 4 ? 32 : 16;
  set_implied_prefix(cursor, last & 3);
  return known;
}

static bool read_evex(struct cursor *cursor) {
  const uint8_t first = next(cursor);
  const uint8_t second = next(cursor);
  const uint8_t third = next(cursor);
  cursor->vector = cursor->evex = true;
  cursor->reg_high = (first & 0x80 ? 0u : 8u) + (first & 0x10 ? 0u : 16u);
  cursor->index_high = first & 0x40 ? 0 : 8;
  cursor->base_high = first & 0x20 ? 0 : 8;
  cursor->wide = second & 0x80;
  set_implied_prefix(cursor, second & 3);
  cursor->vector_width = 16u << (third >> 5 & 3);
  cursor->opmask = third & 7;
  return (first & 8) == 0 && cursor->vector_width <= 64 && set_map(cursor, first & 7);
}

static bool read_prefixes(struct cursor *cursor) {
  read_legacy_prefixes(cursor);
  uint8_t byte = next(cursor);
  if (byte == 0xC5 || byte == 0xC4) return read_vex(cursor, byte == 0xC4);
  if (byte == 0x62) return read_evex(cursor);
  if ((byte & 0xF0) == 0x40) {
    cursor->wide = byte & 8;
    cursor->reg_high = byte & 4 ? 8 : 0;
    cursor->index_high = byte & 2 ? 8 : 0;
    cursor->base_high = byte & 1 ? 8 : 0;
    cursor->rex = true;
    byte = next(cursor);
  }
  if (byte != 0x0F) {
    cursor->at--;
    cursor->map = MAP_PRIMARY;
    return true;
  }
  byte = next(cursor);
  cursor->map = byte == 0x38 ? MAP_0F38 : byte == 0x3A ? MAP_0F3A : MAP_0F;
  if (cursor->map == MAP_0F) cursor->at--;
  return true;
}

/* ---- the memory operand -------------------------------------------------------------------------------------- */

static int64_t read_displacement(struct cursor *cursor, unsigned bytes) {
  if (bytes == 1) return (int8_t)next(cursor);
  int32_t value = 0;
  if (bytes == 4) {
    memcpy(&value, cursor->at, sizeof value);
    cursor->at += 4;
  }
  return value;
}

/* False if the operand is a register. */
static bool read_operands(struct cursor *cursor, unsigned *reg, struct memory_operand *memory) {
  const uint8_t modrm = next(cursor);
  const unsigned mode = modrm >> 6;
  const unsigned rm = modrm & 7;
  unsigned displacement = mode == 1 ? 1 : mode == 2 ? 4 : 0;
  *reg = (modrm >> 3 & 7) + cursor->reg_high;
  *memory = (struct memory_operand){.base = (int)(rm + cursor->base_high), .index = -1, .segment = cursor->segment};
  if (mode == 3) return false;
  if (rm == 4) {
    const uint8_t sib = next(cursor);
    memory->scale = sib >> 6;
    memory->base = (int)((sib & 7u) + cursor->base_high);
    memory->index = (int)((sib >> 3 & 7u) + cursor->index_high);
    if (memory->index == 4) memory->index = -1;
    if ((sib & 7) == 5 && mode == 0) {
      memory->base = -1;
      displacement = 4;
    }
  } else if (rm == 5 && mode == 0) {
    memory->base = -1;
    memory->rip_relative = true;
    displacement = 4;
  }
  memory->displacement = read_displacement(cursor, displacement);
  cursor->displacement_8 = displacement == 1;
  return true;
}

/* ---- instructions -------------------------------------------------------------------------------------------- */

static unsigned general_width(const struct cursor *cursor) { return cursor->wide ? 8 : cursor->operand_16 ? 2 : 4; }

static bool has_no_prefix(const struct cursor *cursor) {
  return !cursor->operand_16 && !cursor->repeat && !cursor->repeat_not;
}

/* Bytes that the vector instruction stores; 0 if it is not one of those. `*skip`: from the middle of the register. */
static unsigned vector_store_width(const struct cursor *cursor, uint8_t opcode, unsigned *skip) {
  const bool plain = has_no_prefix(cursor);
  const unsigned full = cursor->vector ? cursor->vector_width : 16;
  switch (opcode) {
    case 0x11: /* MOVUPS, MOVUPD, MOVSS, MOVSD */ return cursor->repeat ? 4 : cursor->repeat_not ? 8 : full;
    case 0x29: /* MOVAPS, MOVAPD */
    case 0x2B: /* MOVNTPS, MOVNTPD */ return plain || cursor->operand_16 ? full : 0;
    case 0x7F: /* MOVDQA, MOVDQU; EVEX: also of bytes and words */
      return cursor->operand_16 || cursor->repeat || (cursor->evex && cursor->repeat_not) ? full : 0;
    case 0xE7: /* MOVNTDQ */ return cursor->operand_16 ? full : 0;
    case 0xD6: /* MOVQ */ return cursor->operand_16 ? 8 : 0;
    case 0x7E: /* MOVD, MOVQ from the register's low end */ return cursor->operand_16 ? (cursor->wide ? 8 : 4) : 0;
    case 0x13: /* MOVLPS, MOVLPD */ return plain || cursor->operand_16 ? 8 : 0;
    case 0x17: /* MOVHPS, MOVHPD */ *skip = 8; return plain || cursor->operand_16 ? 8 : 0;
    default: return 0;
  }
}

/* Bytes for each bit of an opmask. */
static unsigned element_width(const struct cursor *cursor, uint8_t opcode) {
  if (opcode == 0x7F && cursor->repeat_not) return cursor->wide ? 2 : 1;
  return cursor->wide || cursor->repeat_not ? 8 : 4;
}

static bool decode_0f(struct cursor *cursor, struct store *store) {
  const uint8_t opcode = next(cursor);
  if (opcode == 0xC3 && !cursor->vector) { /* MOVNTI */
    store->source = SOURCE_GENERAL;
    store->width = general_width(cursor);
    return has_no_prefix(cursor) && read_operands(cursor, &store->reg, &store->memory);
  }
  store->source = SOURCE_VECTOR;
  store->width = vector_store_width(cursor, opcode, &store->skip);
  if (cursor->opmask != 0) {
    store->mask = MASK_OPMASK;
    store->mask_reg = cursor->opmask;
    store->element = element_width(cursor, opcode);
  }
  return store->width != 0 && read_operands(cursor, &store->reg, &store->memory);
}

/* VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ: the highest bits of a vector's elements say which are stored. */
static bool decode_masked_move(struct cursor *cursor, struct store *store, uint8_t opcode) {
  const bool floats = opcode == 0x2E || opcode == 0x2F;
  if ((!floats && opcode != 0x8E) || cursor->evex || !cursor->operand_16) return false;
  store->source = SOURCE_VECTOR;
  store->width = cursor->vector_width;
  store->mask = MASK_VECTOR;
  store->mask_reg = cursor->third;
  store->element = opcode == 0x2F || (!floats && cursor->wide) ? 8 : 4;
  return read_operands(cursor, &store->reg, &store->memory);
}

static bool decode_0f38(struct cursor *cursor, struct store *store) {
  const uint8_t opcode = next(cursor);
  if (cursor->vector) return decode_masked_move(cursor, store, opcode);
  if (cursor->repeat || cursor->repeat_not) return false;
  if (opcode == 0xF8 && cursor->operand_16) { /* MOVDIR64B */
    store->source = SOURCE_MEMORY;
    store->width = 64;
  } else if (opcode == 0xF9 && !cursor->operand_16) { /* MOVDIRI */
    store->source = SOURCE_GENERAL;
    store->width = general_width(cursor);
  } else if (opcode == 0xF1) { /* MOVBE */
    store->source = SOURCE_GENERAL_SWAPPED;
    store->width = general_width(cursor);
  } else {
    return false;
  }
  return read_operands(cursor, &store->reg, &store->memory);
}

/* Parts of vector registers, chosen by a number that follows the operands. */
static bool decode_0f3a(struct cursor *cursor, struct store *store) {
  const uint8_t opcode = next(cursor);
  unsigned whole = 16;
  switch (opcode) {
    case 0x14: /* PEXTRB */ store->width = 1; break;
    case 0x15: /* PEXTRW */ store->width = 2; break;
    case 0x16: /* PEXTRD, PEXTRQ */ store->width = cursor->wide ? 8 : 4; break;
    case 0x17: /* EXTRACTPS */ store->width = 4; break;
    case 0x19: /* VEXTRACTF128 and its like */
    case 0x39: store->width = 16; break;
    case 0x1B: /* VEXTRACTF64X4 and its like */
    case 0x3B: store->width = 32; break;
    default: return false;
  }
  if (store->width >= 16) {
    whole = cursor->vector_width;
    if (!cursor->vector || whole <= store->width || (store->width == 32 && !cursor->evex)) return false;
  } else if (cursor->vector && cursor->vector_width != 16) {
    return false;
  }
  if (cursor->opmask != 0) {
    if (store->width < 16) return false;
    store->mask = MASK_OPMASK;
    store->mask_reg = cursor->opmask;
    store->element = cursor->wide ? 8 : 4;
  }
  store->source = SOURCE_VECTOR;
  if (!cursor->operand_16 || !read_operands(cursor, &store->reg, &store->memory)) return false;
  store->skip = (next(cursor) & (whole / store->width - 1)) * store->width;
  return true;
}

static bool decode_immediate(struct cursor *cursor, struct store *store, bool byte) {
  store->source = SOURCE_IMMEDIATE;
  store->width = byte ? 1 : general_width(cursor);
  if (!read_operands(cursor, &store->reg, &store->memory) || store->reg % 8 != 0) return false;
  const unsigned bytes = store->width == 8 ? 4 : store->width;
  int32_t value = 0;
  memcpy(&value, cursor->at, bytes);
  cursor->at += bytes;
  store->immediate = (uint64_t)(int64_t)value; /* only the 64-bit form needs its sign */
  return true;
}

static bool decode_primary(struct cursor *cursor, struct store *store) {
  const uint8_t opcode = next(cursor);
  switch (opcode) {
    case 0x88:
      store->source = SOURCE_GENERAL;
      store->width = 1;
      if (!read_operands(cursor, &store->reg, &store->memory)) return false;
      /* With any REX prefix, byte registers 4-7 are the low bytes of RSP to RDI. */
      if (!cursor->rex && store->reg >= 4) {
        store->source = SOURCE_HIGH_BYTE;
        store->reg -= 4;
      }
      return true;
    case 0x89:
      store->source = SOURCE_GENERAL;
      store->width = general_width(cursor);
      return read_operands(cursor, &store->reg, &store->memory);
    case 0xC6:
    case 0xC7: return decode_immediate(cursor, store, opcode == 0xC6);
    case 0xA4:
    case 0xA5:
    case 0xAA:
    case 0xAB:
      store->source = opcode < 0xA8 ? SOURCE_STRING_MOVE : SOURCE_STRING_FILL;
      store->width = opcode & 1 ? general_width(cursor) : 1;
      store->repeat = cursor->repeat || cursor->repeat_not;
      return !cursor->address_32 && cursor->segment == 0;
    default: return false;
  }
}

bool decode_store(const uint8_t *code, struct store *store) {
  struct cursor cursor = {.at = code, .start = code};
  bool known;
  memset(store, 0, sizeof *store);
  if (!read_prefixes(&cursor)) return false;
  switch (cursor.map) {
    case MAP_PRIMARY: known = decode_primary(&cursor, store); break;
    case MAP_0F: known = decode_0f(&cursor, store); break;
    case MAP_0F38: known = decode_0f38(&cursor, store); break;
    default: known = decode_0f3a(&cursor, store); break;
  }
  store->length = (unsigned)(cursor.at - cursor.start);
  store->memory.address_32 = cursor.address_32;
  /* A short displacement counts in units of what is stored. */
  if (cursor.evex && cursor.displacement_8) store->memory.displacement *= store->width;
  return known;
}

/* UMONITOR, UMWAIT and TPAUSE have a register and, by which they differ, each a prefix. */
unsigned decode_pause(const uint8_t *code) {
  struct cursor cursor = {.at = code, .start = code};
  struct memory_operand none;
  unsigned reg;
  if (!read_prefixes(&cursor) || cursor.vector || cursor.map != MAP_0F || next(&cursor) != 0xAE) return 0;
  if (has_no_prefix(&cursor) || read_operands(&cursor, &reg, &none) || reg % 8 != 6) return 0;
  return (unsigned)(cursor.at - cursor.start);
}
