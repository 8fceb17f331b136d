/* The engine against a naive model of it, over random sequences of operations in one thread.
 *
 * The model does not foretell what a recv returns, because the engine may choose among equals. It judges: each
 * element received must have been eligible at that moment, with every limit kept; a recv that returns fewer than it
 * might is right only if nothing is eligible any more; lower priorities go first no more often than the engine says.
 * Depths, credits and elements in flight are compared after every operation.
 *
 *   PDLB_MODEL_RUNS   random set-ups to try (default 60)
 *   PDLB_MODEL_STEPS  operations in each (default 3000)
 */
#include "rig.h"

enum { QUEUES = 4, PORTS = 5, DIRECTED = 2, CREDITS = 256, HELD = 64, BATCH = 64 };

enum { SEQUENCE_NUMBERS = 64 };

/* A lower priority is served first for one of so many elements of a queue, and in one of so many calls of a port. */
enum { STARVATION_PERIOD = 64 };

enum place_state { PLACE_OPEN, PLACE_DROPPED, PLACE_TAKEN };

struct model_place {
  enum place_state state;
  struct pdlb_event event; /* what took the place */
};

struct model_queue {
  uint8_t id;
  bool directed, ordered, atomic;
  uint32_t limit, in_flight;
  struct pdlb_event waiting[CREDITS]; /* in order of arrival */
  uint32_t count;
  struct model_place places[SEQUENCE_NUMBERS]; /* of ordered elements in flight, by sequence number */
  uint32_t oldest, next;
  uint64_t picks, out_of_turn;
};

struct model_held {
  uint32_t queue, sequence;
  unsigned type;
  uint16_t flow;
};

struct model_port {
  struct pdlb_port *handle;
  struct pdlb_port_config config;
  bool directed, enabled;
  uint32_t directed_queue;
  int link[QUEUES]; /* priority, or -1 */
  struct model_held held[HELD];
  uint32_t held_count, later;
  uint64_t calls, out_of_turn;
};

static struct model {
  struct rig rig;
  struct check_random random;
  struct model_queue queues[QUEUES + DIRECTED]; /* the directed ones last */
  struct model_port ports[PORTS + DIRECTED];
  uint32_t credits, credits_total, flows, priorities;
  bool started;
  uint64_t next_data, enqueued, scheduled;
  uint64_t step;
} model;

static uint32_t below(uint32_t limit) { return check_below(&model.random, limit); }
static bool one_in(uint32_t many) { return below(many) == 0; }
static uint32_t at_most(uint32_t limit) { return 1 + below(limit); }
static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void explain(void) {
  fprintf(stderr, "at step %" PRIu64 "; credits %" PRIu32 " of %" PRIu32 "\n", model.step, model.credits,
          model.credits_total);
  for (uint32_t i = 0; i < QUEUES + DIRECTED; i++) {
    const struct model_queue *queue = &model.queues[i];
    fprintf(stderr,
            "  %s queue %u: %" PRIu32 " wait, %" PRIu32 " of %" PRIu32 " in flight%s, places %" PRIu32 "..%" PRIu32
            "\n",
            queue->directed ? "directed" : "load-balanced", queue->id, queue->count, queue->in_flight, queue->limit,
            queue->ordered ? ", ordered" : "", queue->oldest, queue->next);
  }
  for (uint32_t i = 0; i < PORTS + DIRECTED; i++) {
    const struct model_port *port = &model.ports[i];
    fprintf(stderr, "  port %" PRIu32 ": %s, holds %" PRIu32 " of %" PRIu32 ", depth %" PRIu32 "%s, linked", i,
            port->enabled ? "enabled" : "disabled", port->held_count, port->config.history_entries,
            port->config.cq_depth, port->config.release_on_recv ? ", releases on recv" : "");
    for (uint32_t j = 0; j < QUEUES; j++)
      if (port->link[j] >= 0) fprintf(stderr, " %u@%d", model.queues[j].id, port->link[j]);
    fprintf(stderr, "\n");
  }
}

/* ---- what the model says may happen ----------------------------------------------------------------------------- */

/* The port that holds elements of this atomic flow, or NULL. */
static const struct model_port *owner_of(uint32_t queue, uint16_t flow) {
  for (uint32_t i = 0; i < PORTS; i++) {
    const struct model_port *port = &model.ports[i];
    for (uint32_t j = 0; j < port->held_count; j++)
      if (port->held[j].queue == queue && port->held[j].type == PDLB_SCHED_ATOMIC && port->held[j].flow == flow)
        return port;
  }
  return NULL;
}

/* An earlier one of its kind and priority waits: for atomic elements one of its flow, for others any but atomic. */
static bool has_predecessor(const struct model_queue *queue, uint32_t index) {
  const struct pdlb_event *event = &queue->waiting[index];
  for (uint32_t i = 0; i < index; i++) {
    const struct pdlb_event *earlier = &queue->waiting[i];
    if (pdlb_event_priority(earlier) != pdlb_event_priority(event)) continue;
    if (pdlb_event_type(earlier) != pdlb_event_type(event)) continue;
    if (pdlb_event_type(event) != PDLB_SCHED_ATOMIC || earlier->flow == event->flow) return true;
  }
  return false;
}

static bool eligible(const struct model_port *port, uint32_t queue_index, uint32_t index) {
  const struct model_queue *queue = &model.queues[queue_index];
  const struct pdlb_event *event = &queue->waiting[index];
  if (has_predecessor(queue, index)) return false;
  if (queue->directed) return port->directed && port->directed_queue == queue_index;
  if (port->directed || port->link[queue_index] < 0) return false;
  if (port->held_count >= port->config.history_entries || queue->in_flight >= queue->limit) return false;
  if (pdlb_event_type(event) == PDLB_SCHED_ORDERED && queue->next - queue->oldest >= SEQUENCE_NUMBERS) return false;
  if (pdlb_event_type(event) != PDLB_SCHED_ATOMIC) return true;
  const struct model_port *owner = owner_of(queue_index, event->flow);
  return !owner || owner == port;
}

/* The best priority among eligible elements of a queue, or PDLB_PRIORITIES. */
static unsigned best_priority(const struct model_port *port, uint32_t queue) {
  unsigned best = PDLB_PRIORITIES;
  for (uint32_t i = 0; i < model.queues[queue].count; i++) {
    const unsigned priority = pdlb_event_priority(&model.queues[queue].waiting[i]);
    if (priority < best && eligible(port, queue, i)) best = priority;
  }
  return best;
}

static int best_link(const struct model_port *port) {
  int best = INT32_MAX;
  for (uint32_t queue = 0; queue < QUEUES; queue++)
    if (!port->directed && port->link[queue] >= 0 && port->link[queue] < best &&
        best_priority(port, queue) < PDLB_PRIORITIES)
      best = port->link[queue];
  return best;
}

/* An ordered element for which there is no place in line holds up what is behind it, of whatever type. */
static bool held_up(const struct model_queue *queue) {
  if (queue->next - queue->oldest < SEQUENCE_NUMBERS) return false;
  for (uint32_t i = 0; i < queue->count; i++)
    if (pdlb_event_type(&queue->waiting[i]) == PDLB_SCHED_ORDERED) return true;
  return false;
}

static bool anything_eligible(const struct model_port *port) {
  if (!port->enabled) return false;
  for (uint32_t queue = 0; queue < QUEUES + DIRECTED; queue++)
    if (best_priority(port, queue) < PDLB_PRIORITIES && !held_up(&model.queues[queue])) return true;
  return false;
}

/* ---- what the model does ---------------------------------------------------------------------------------------- */

static struct model_queue *queue_named(const struct pdlb_event *event) {
  const bool directed = pdlb_event_type(event) == PDLB_SCHED_DIRECTED;
  for (uint32_t i = 0; i < QUEUES + DIRECTED; i++)
    if (model.queues[i].directed == directed && model.queues[i].id == event->queue) return &model.queues[i];
  return NULL;
}

static bool does_type(const struct model_queue *queue, unsigned type) {
  switch (type) {
    case PDLB_SCHED_ATOMIC: return queue->atomic;
    case PDLB_SCHED_UNORDERED: return !queue->ordered;
    case PDLB_SCHED_ORDERED: return queue->ordered;
    default: return queue->directed;
  }
}

static void append(const struct pdlb_event *event) {
  struct model_queue *queue = queue_named(event);
  CHECK(queue->count < CREDITS);
  queue->waiting[queue->count++] = *event;
}

/* The oldest places that are settled give way. */
static void settle(struct model_queue *queue) {
  for (; queue->oldest != queue->next; queue->oldest++) {
    const struct model_place *place = &queue->places[queue->oldest % SEQUENCE_NUMBERS];
    if (place->state == PLACE_OPEN) return;
    if (place->state == PLACE_TAKEN) append(&place->event);
  }
}

static void complete_oldest(struct model_port *port, const struct pdlb_event *taking_its_place) {
  const struct model_held held = port->held[0];
  struct model_queue *queue = &model.queues[held.queue];
  memmove(port->held, port->held + 1, --port->held_count * sizeof *port->held);
  queue->in_flight--;
  if (held.type != PDLB_SCHED_ORDERED) {
    if (taking_its_place) append(taking_its_place);
    return;
  }
  struct model_place *place = &queue->places[held.sequence % SEQUENCE_NUMBERS];
  place->state = taking_its_place ? PLACE_TAKEN : PLACE_DROPPED;
  if (taking_its_place) place->event = *taking_its_place;
  settle(queue);
}

static uint32_t complete(struct model_port *port, uint32_t count) {
  const uint32_t completed = least(count, port->held_count);
  for (uint32_t i = 0; i < completed; i++) complete_oldest(port, NULL);
  return completed;
}

static void do_what_was_put_off(struct model_port *port) {
  complete(port, port->later);
  port->later = 0;
}

static enum pdlb_refusal judge(const struct model_port *port, const struct pdlb_event *event, bool forward) {
  const struct model_queue *queue = queue_named(event);
  if (!model.started) return PDLB_NOT_STARTED;
  if (!port->enabled) return PDLB_PORT_DISABLED;
  if (forward && !port->held_count) return PDLB_NOT_HELD;
  if (!queue) return PDLB_BAD_QUEUE;
  if (!does_type(queue, pdlb_event_type(event))) return PDLB_BAD_SCHED;
  return model.credits ? PDLB_TAKEN : PDLB_NO_CREDIT;
}

/* Find a received element among those that wait, check that it may go to this port, and hold it. */
static void take(struct model_port *port, const struct pdlb_event *event) {
  struct model_queue *queue = queue_named(event);
  CHECK(queue);
  const uint32_t queue_index = (uint32_t)(queue - model.queues);
  uint32_t index = 0;
  while (index < queue->count && queue->waiting[index].data != event->data) index++;
  if (index == queue->count) FAIL("element %" PRIu64 " does not wait in queue %u", event->data, queue->id);
  if (memcmp(&queue->waiting[index], event, sizeof *event)) FAIL("element %" PRIu64 " was changed", event->data);
  if (!eligible(port, queue_index, index))
    FAIL("element %" PRIu64 " of queue %u, type %u, flow %u, was not eligible", event->data, queue->id,
         pdlb_event_type(event), event->flow);
  queue->picks++;
  if (best_priority(port, queue_index) < pdlb_event_priority(event)) queue->out_of_turn++;

  memmove(&queue->waiting[index], &queue->waiting[index + 1], (--queue->count - index) * sizeof *event);
  model.credits++;
  model.scheduled++;
  if (queue->directed) return;
  port->held[port->held_count++] = (struct model_held){queue_index, queue->next, pdlb_event_type(event), event->flow};
  queue->in_flight++;
  if (pdlb_event_type(event) == PDLB_SCHED_ORDERED) queue->places[queue->next++ % SEQUENCE_NUMBERS].state = PLACE_OPEN;
}

/* ---- operations, on both ---------------------------------------------------------------------------------------- */

static struct pdlb_event any_event(void) {
  const uint32_t index = below(QUEUES + DIRECTED);
  const struct model_queue *queue = &model.queues[index];
  unsigned type = queue->directed ? PDLB_SCHED_DIRECTED : queue->ordered ? PDLB_SCHED_ORDERED : PDLB_SCHED_UNORDERED;
  if (queue->atomic && one_in(2)) type = PDLB_SCHED_ATOMIC;
  struct pdlb_event event = rig_event(queue->id, (enum pdlb_sched)type, below(model.priorities),
                                      (uint16_t)below(model.flows), model.next_data++);
  event.opaque = (uint16_t)check_next(&model.random);
  event.sched |= (uint8_t)(below(8) << 5);
  if (one_in(200)) event.queue = (uint8_t)below(256);
  if (one_in(200)) event.sched = (uint8_t)((event.sched & ~3u) | below(4));
  return event;
}

static void send_or_forward(struct model_port *port, bool forward) {
  struct pdlb_event events[BATCH];
  const uint32_t count = below(one_in(4) ? BATCH : 5);
  enum pdlb_refusal expected = PDLB_TAKEN, why = PDLB_TAKEN;
  uint32_t taken = 0;
  for (uint32_t i = 0; i < count; i++) events[i] = any_event();
  if (port->later) pdlb_port_release(port->handle, 0);
  do_what_was_put_off(port);
  for (; taken < count; taken++) {
    expected = judge(port, &events[taken], forward);
    if (expected != PDLB_TAKEN) break;
    model.credits--;
    model.enqueued++;
    if (forward)
      complete_oldest(port, &events[taken]);
    else
      append(&events[taken]);
  }
  const uint32_t result = (forward ? pdlb_port_forward : pdlb_port_send)(port->handle, events, count, &why);
  if (result != taken || why != expected)
    FAIL("%s took %" PRIu32 " of %" PRIu32 ", refusal %d; expected %" PRIu32 ", refusal %d",
         forward ? "forward" : "send", result, count, (int)why, taken, (int)expected);
}

static void receive(struct model_port *port) {
  struct pdlb_event events[BATCH];
  const uint32_t max = one_in(4) ? 1 : at_most(BATCH);
  do_what_was_put_off(port);
  if (port->config.release_on_recv) complete(port, port->held_count);
  const uint32_t received = rig_poll(port->handle, events, max);
  CHECK_LE(received, port->config.cq_depth);
  if (!port->enabled) CHECK_EQ(received, 0);
  port->calls++;
  bool out_of_turn = false;
  for (uint32_t i = 0; i < received; i++) {
    if (!port->directed) {
      const struct model_queue *queue = queue_named(&events[i]);
      CHECK(queue);
      out_of_turn |= best_link(port) < port->link[queue - model.queues];
    }
    take(port, &events[i]);
  }
  port->out_of_turn += out_of_turn;
  if (received < least(max, port->config.cq_depth) && anything_eligible(port))
    FAIL("port %td received %" PRIu32 " of %" PRIu32 ", yet more is eligible", port - model.ports, received, max);
}

static void release(struct model_port *port) {
  const uint32_t count = one_in(8) ? BATCH : below(6);
  if (one_in(4)) {
    const uint32_t later = least(count, port->held_count - port->later);
    pdlb_port_release_later(port->handle, later);
    port->later += later;
    return;
  }
  do_what_was_put_off(port);
  const uint32_t expected = complete(port, count);
  CHECK_EQ(pdlb_port_release(port->handle, count), expected);
}

static void relink(struct model_port *port) {
  const uint32_t queue = below(QUEUES);
  if (port->directed) return;
  if (port->link[queue] >= 0 && one_in(2)) {
    rig_unlink(port->handle, model.queues[queue].id);
    port->link[queue] = -1;
  } else {
    port->link[queue] = (int)below(8);
    rig_link(port->handle, model.queues[queue].id, (uint32_t)port->link[queue]);
  }
}

static void toggle(struct model_port *port) {
  struct pdlb_error error = {0};
  CHECK_OK((port->enabled ? pdlb_port_disable : pdlb_port_enable)(port->handle, &error), error);
  port->enabled = !port->enabled;
}

static void create_port(struct model_port *port) {
  port->config = (struct pdlb_port_config){.cq_depth = 1u << below(7),
                                           .history_entries = one_in(3) ? at_most(4) : at_most(60),
                                           .release_on_recv = one_in(4)};
  port->enabled = true;
  port->handle = rig_port_with(&model.rig, &port->config);
  for (uint32_t queue = 0; queue < QUEUES; queue++) port->link[queue] = -1;
  for (uint32_t i = 0; i < 3; i++) relink(port);
}

static void replace_port(struct model_port *port) {
  if (port->directed) return;
  rig_close_port(port->handle);
  port->later = 0;
  complete(port, port->held_count);
  create_port(port);
}

static void start_or_stop(void) {
  if (model.started && !one_in(4)) return;
  if (model.started)
    rig_stop(&model.rig);
  else
    rig_start(&model.rig);
  model.started = !model.started;
}

static void compare(void) {
  for (uint32_t i = 0; i < QUEUES + DIRECTED; i++) {
    struct model_queue *queue = &model.queues[i];
    struct pdlb_error error = {0};
    const int depth =
        (queue->directed ? pdlb_dir_queue_depth : pdlb_ldb_queue_depth)(model.rig.domain, queue->id, &error);
    CHECK_EQ(depth, queue->count);
  }
  for (uint32_t i = 0; i < PORTS + DIRECTED; i++)
    if (!model.ports[i].later) CHECK_EQ(pdlb_port_in_flight(model.ports[i].handle), model.ports[i].held_count);
  const struct pdlb_domain_stats stats = rig_stats(&model.rig);
  CHECK_EQ(stats.scheduled, model.scheduled);
  CHECK_EQ(stats.enqueued, model.enqueued);
  CHECK_EQ(stats.credits_free, model.credits);
  CHECK_EQ(stats.queued, model.credits_total - model.credits); /* with those that await their turn in a line */
}

/* ---- a run ------------------------------------------------------------------------------------------------------ */

static void create_queues(void) {
  for (uint32_t i = 0; i < QUEUES + DIRECTED; i++) {
    struct model_queue *queue = &model.queues[i];
    queue->directed = i >= QUEUES;
    if (queue->directed) {
      queue->id = rig_directed_queue(&model.rig, PDLB_NONE);
      continue;
    }
    queue->ordered = one_in(2);
    queue->atomic = queue->ordered ? one_in(2) : !one_in(4);
    queue->limit = one_in(3) ? at_most(6) : at_most(64);
    queue->id = rig_queue_with(
        &model.rig, &(struct pdlb_ldb_queue_config){.sequence_numbers = queue->ordered ? SEQUENCE_NUMBERS : 0,
                                                    .inflights = queue->limit,
                                                    .atomic_inflights = queue->atomic ? 64 : 0});
  }
}

static void set_up(void) {
  struct pdlb_domain_config config = rig_plenty;
  memset(&model.queues, 0, sizeof model.queues);
  memset(&model.ports, 0, sizeof model.ports);
  config.ldb_credits = model.credits = model.credits_total = one_in(3) ? at_most(16) : at_most(CREDITS);
  model.flows = one_in(3) ? at_most(3) : at_most(200);
  model.priorities = one_in(3) ? 1 : PDLB_PRIORITIES;
  model.step = model.enqueued = model.scheduled = model.next_data = 0;
  model.started = false;
  model.rig = rig_open_with(one_in(2) ? PDLB_LIMITS_LARGE : PDLB_LIMITS_HARDWARE, &config);
  create_queues();
  for (uint32_t i = 0; i < PORTS + DIRECTED; i++) {
    struct model_port *port = &model.ports[i];
    port->directed = i >= PORTS;
    if (!port->directed) {
      create_port(port);
      continue;
    }
    port->directed_queue = QUEUES + i - PORTS;
    port->enabled = true;
    port->config.cq_depth = 1u << below(7);
    port->handle = rig_directed_port(&model.rig, model.queues[port->directed_queue].id, port->config.cq_depth);
  }
  start_or_stop();
}

static void step(const uint32_t weights[8]) {
  struct model_port *port = &model.ports[below(PORTS + DIRECTED)];
  uint32_t sum = 0, choice = 0;
  for (uint32_t i = 0; i < 8; i++) sum += weights[i];
  for (uint32_t drawn = below(sum); drawn >= weights[choice]; choice++) drawn -= weights[choice];
  switch (choice) {
    case 0: send_or_forward(port, false); break;
    case 1: receive(port); break;
    case 2: release(port); break;
    case 3: send_or_forward(port, true); break;
    case 4: relink(port); break;
    case 5: toggle(port); break;
    case 6: replace_port(port); break;
    default: start_or_stop(); break;
  }
}

static void check_turns(void) {
  for (uint32_t i = 0; i < QUEUES + DIRECTED; i++)
    CHECK_LE(model.queues[i].out_of_turn, model.queues[i].picks / STARVATION_PERIOD + 1);
}

/* Everything that was sent can be had: enable, link and release until the queues are empty. */
static void drain(void) {
  if (!model.started) start_or_stop();
  for (uint32_t i = 0; i < PORTS + DIRECTED; i++) {
    struct model_port *port = &model.ports[i];
    if (!port->enabled) toggle(port);
    for (uint32_t queue = 0; queue < QUEUES && !port->directed; queue++) {
      if (port->link[queue] < 0) rig_link(port->handle, model.queues[queue].id, 0);
      if (port->link[queue] < 0) port->link[queue] = 0;
    }
  }
  for (uint32_t round = 0; model.credits < model.credits_total; round++) {
    CHECK_LT(round, 20 * CREDITS);
    for (uint32_t i = 0; i < PORTS + DIRECTED; i++) {
      receive(&model.ports[i]);
      do_what_was_put_off(&model.ports[i]);
      const uint32_t completed = complete(&model.ports[i], BATCH);
      CHECK_EQ(pdlb_port_release(model.ports[i].handle, BATCH), completed);
      compare();
    }
  }
}

static void tear_down(void) {
  for (uint32_t i = 0; i < PORTS + DIRECTED; i++) rig_close_port(model.ports[i].handle);
  rig_close(&model.rig);
}

static void engine_does_as_the_model(void) {
  const uint64_t runs = check_setting("PDLB_MODEL_RUNS", 60), steps = check_setting("PDLB_MODEL_STEPS", 3000);
  check_explain_with(explain);
  model.random = check_randomness(0);
  for (uint64_t run = 0; run < runs; run++) {
    /* Each run has a taste of its own: some never stop, some hardly ever release. */
    const uint32_t weights[8] = {at_most(40), at_most(60),    at_most(40),    below(40),
                                 below(4),    one_in(2) * 2u, one_in(2) * 2u, one_in(4)};
    set_up();
    for (model.step = 0; model.step < steps; model.step++) {
      step(weights);
      compare();
    }
    check_turns();
    drain();
    tear_down();
    check_still_alive();
  }
}

CHECK_MAIN(CASE(engine_does_as_the_model))
