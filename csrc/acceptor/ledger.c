#include "pdlb_ledger.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* At first, and always a power of two. */
#define PLACES 256u

/* Listeners are found by their numbers in a table of which at least a quarter is free. */
struct pdlb_ledger {
  pthread_mutex_t mutex;
  struct pdlb_ledger_entry *table;
  uint32_t places, used;
  struct pdlb_ledger_counts counts;
  uint64_t early; /* elements of its port that were released before their connections ended */
  uint32_t port;
  bool closed;
};

struct pdlb_ledger *pdlb_ledger_create(void) {
  struct pdlb_ledger *ledger = calloc(1, sizeof *ledger);
  if (!ledger) return NULL;
  ledger->places = PLACES;
  ledger->table = calloc(PLACES, sizeof *ledger->table);
  if (!ledger->table) {
    free(ledger);
    return NULL;
  }
  pthread_mutex_init(&ledger->mutex, NULL);
  return ledger;
}

void pdlb_ledger_free(struct pdlb_ledger *ledger) {
  pthread_mutex_destroy(&ledger->mutex);
  free(ledger->table);
  free(ledger);
}

void pdlb_ledger_lock(struct pdlb_ledger *ledger) { pthread_mutex_lock(&ledger->mutex); }
void pdlb_ledger_unlock(struct pdlb_ledger *ledger) { pthread_mutex_unlock(&ledger->mutex); }

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* Its entry, or the free one where it is to be. */
static struct pdlb_ledger_entry *find(struct pdlb_ledger_entry *table, uint32_t places, uint32_t listener) {
  uint32_t place = listener * 2654435769u >> 7 & (places - 1);
  while (table[place].given && table[place].listener != listener) place = (place + 1) & (places - 1);
  return &table[place];
}

static int grow(struct pdlb_ledger *ledger) {
  const uint32_t places = 2 * ledger->places;
  struct pdlb_ledger_entry *table = calloc(places, sizeof *table);
  if (!table) return -ENOMEM;
  for (uint32_t place = 0; place < ledger->places; place++)
    if (ledger->table[place].given) *find(table, places, ledger->table[place].listener) = ledger->table[place];
  free(ledger->table);
  ledger->table = table;
  ledger->places = places;
  return 0;
}

const struct pdlb_ledger_entry *pdlb_ledger_next(const struct pdlb_ledger *ledger, uint32_t *place) {
  while (*place < ledger->places) {
    const struct pdlb_ledger_entry *entry = &ledger->table[(*place)++];
    if (entry->given) return entry;
  }
  return NULL;
}

/* ---- what it is given -------------------------------------------------------------------------------------------- */

bool pdlb_ledger_is_closed(const struct pdlb_ledger *ledger) { return ledger->closed; }

int pdlb_ledger_prepare(struct pdlb_ledger *ledger, uint32_t most) {
  int rc = ledger->closed ? -EPIPE : 0;
  while (rc == 0 && ledger->used + (uint64_t)most > ledger->places / 4 * 3) rc = grow(ledger);
  return rc;
}

void pdlb_ledger_give(struct pdlb_ledger *ledger, uint32_t listener) {
  struct pdlb_ledger_entry *entry = find(ledger->table, ledger->places, listener);
  if (entry->given == 0) ledger->used++;
  entry->listener = listener;
  entry->given++;
  ledger->counts.given++;
}

/* ---- its port ---------------------------------------------------------------------------------------------------- */

uint32_t pdlb_ledger_port(const struct pdlb_ledger *ledger) { return ledger->port; }

void pdlb_ledger_move(struct pdlb_ledger *ledger) {
  ledger->port++;
  ledger->early = 0;
}

uint32_t pdlb_ledger_release_early(struct pdlb_ledger *ledger, uint32_t taken, uint64_t held, uint32_t history) {
  const uint64_t above = held + 1 > history ? held + 1 - history : 0;
  const uint32_t early = above < taken ? (uint32_t)above : taken;
  ledger->early += early;
  ledger->counts.released_early += early;
  return early;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

bool pdlb_ledger_end(struct pdlb_ledger *ledger, uint32_t listener, uint32_t port, bool *aborted) {
  if (ledger->closed) {
    *aborted = true;
    return false;
  }
  find(ledger->table, ledger->places, listener)->ended++;
  ledger->counts.ended++;
  if (*aborted) ledger->counts.aborted++;
  if (port == 0 || port != ledger->port) return false;
  if (ledger->early == 0) return true;
  ledger->early--;
  return false;
}

bool pdlb_ledger_close(struct pdlb_ledger *ledger) {
  if (ledger->closed) return false;
  ledger->closed = true;
  ledger->counts.aborted += ledger->counts.given - ledger->counts.ended;
  ledger->counts.ended = ledger->counts.given;
  for (uint32_t place = 0; place < ledger->places; place++) ledger->table[place].ended = ledger->table[place].given;
  return true;
}

void pdlb_ledger_counts(const struct pdlb_ledger *ledger, struct pdlb_ledger_counts *counts) {
  *counts = ledger->counts;
}
