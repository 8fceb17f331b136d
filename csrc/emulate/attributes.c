/* The attribute files of the driver, below /sys/class/dlb2/dlbN/device. */
#include <stdio.h>

#include "internal.h"

enum attribute {
  DEV_ID,
  FUNCTION_RESET,
  INGRESS_ERROR_ENABLE,
  SN_GROUP_0,
  SN_GROUP_1,
  COS_0,
  COS_1,
  COS_2,
  COS_3,
  TOTAL,
  NUM_RESOURCES = 14,
  AVAILABLE = TOTAL + NUM_RESOURCES,
  MAX_CONTIGUOUS = AVAILABLE + NUM_RESOURCES,
  NUM_ATTRIBUTES,
};

#define RESOURCE_NAMES(directory)                                                                          \
  directory "/num_sched_domains", directory "/num_ldb_queues", directory "/num_ldb_ports",                 \
      directory "/num_cos0_ldb_ports", directory "/num_cos1_ldb_ports", directory "/num_cos2_ldb_ports",   \
      directory "/num_cos3_ldb_ports", directory "/num_dir_ports", directory "/num_ldb_credits",           \
      directory "/num_dir_credits", directory "/num_atomic_inflights", directory "/num_hist_list_entries", \
      directory "/num_sn0_slots", directory "/num_sn1_slots"

static const char *const names[NUM_ATTRIBUTES + 1] = {
    "dev_id",
    "reset",
    "ingress_err_en",
    "sequence_numbers/group0_sns_per_queue",
    "sequence_numbers/group1_sns_per_queue",
    "cos_bw/cos0_bw_percent",
    "cos_bw/cos1_bw_percent",
    "cos_bw/cos2_bw_percent",
    "cos_bw/cos3_bw_percent",
    RESOURCE_NAMES("total_resources"),
    RESOURCE_NAMES("avail_resources"),
    "avail_resources/max_ctg_hl_entries",
    NULL,
};

const char *emulate_attribute_name(unsigned index) { return names[index]; }

bool emulate_attribute_writable(unsigned index) { return index >= FUNCTION_RESET && index <= COS_3; }

static uint32_t resource(const struct pdlb_get_num_resources_args *amounts, unsigned which) {
  const uint32_t values[NUM_RESOURCES] = {
      amounts->num_sched_domains,    amounts->num_ldb_queues,       amounts->num_ldb_ports,
      amounts->num_cos_ldb_ports[0], amounts->num_cos_ldb_ports[1], amounts->num_cos_ldb_ports[2],
      amounts->num_cos_ldb_ports[3], amounts->num_dir_ports,        amounts->num_ldb_credits,
      amounts->num_dir_credits,      amounts->num_atomic_inflights, amounts->num_hist_list_entries,
      amounts->num_sn_slots[0],      amounts->num_sn_slots[1],
  };
  return values[which];
}

static struct pdlb_get_num_resources_args totals(const struct device *device) {
  struct pdlb_get_num_resources_args amounts = {
      .num_sched_domains = PDLB_NUM_DOMAINS,
      .num_ldb_queues = PDLB_NUM_LDB_QUEUES,
      .num_ldb_ports = PDLB_NUM_LDB_PORTS,
      .num_dir_ports = device->control.num_dir_ports,
      .num_ldb_credits = credits_of(device, 0),
      .num_dir_credits = credits_of(device, 1),
      .num_atomic_inflights = PDLB_NUM_ATOMIC_INFLIGHTS,
      .num_hist_list_entries = PDLB_NUM_HISTORY_ENTRIES,
  };
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) amounts.num_cos_ldb_ports[cos] = PDLB_PORTS_PER_COS;
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    amounts.num_sn_slots[group] = PDLB_SNS_PER_GROUP / device->control.sn_groups[group].sns_per_queue;
  }
  return amounts;
}

static uint32_t value_of(const struct device *device, unsigned number, unsigned index) {
  const struct control *control = &device->control;
  struct pdlb_get_num_resources_args amounts;
  if (index == DEV_ID) return number;
  if (index == INGRESS_ERROR_ENABLE) return control->ingress_errors_enabled;
  if (index <= SN_GROUP_1) return control->sn_groups[index - SN_GROUP_0].sns_per_queue;
  if (index <= COS_3) return control->cos_bandwidth[index - COS_0];
  if (index < AVAILABLE) {
    amounts = totals(device);
    return resource(&amounts, index - TOTAL);
  }
  resources_report(device, &amounts);
  return index == MAX_CONTIGUOUS ? amounts.max_contiguous_hist_list_entries : resource(&amounts, index - AVAILABLE);
}

int emulate_attribute_read(struct emulation *emulation, unsigned device, unsigned index, char *text) {
  if (index == FUNCTION_RESET) return -EIO; /* can only be written */
  emulate_collect(emulation, device);
  emulate_lock(emulation, device);
  const uint32_t value = value_of(device_of(emulation, device), device, index);
  emulate_unlock(emulation, device);
  return snprintf(text, 32, "%u\n", value);
}

/* As kstrtol: decimal, hexadecimal or octal, and perhaps one newline. */
static bool parse(const char *text, size_t length, uint32_t *value) {
  uint64_t number = 0;
  size_t at = 0;
  unsigned base = 10;
  if (length > 0 && text[length - 1] == '\n') length--;
  if (at < length && text[at] == '+') at++;
  if (length - at > 2 && text[at] == '0' && (text[at + 1] | 0x20) == 'x') {
    base = 16;
    at += 2;
  } else if (length - at > 1 && text[at] == '0') {
    base = 8;
  }
  if (at == length) return false;
  for (; at < length; at++) {
    const char c = (char)(text[at] | 0x20);
    const unsigned digit = text[at] >= '0' && text[at] <= '9' ? (unsigned)(text[at] - '0')
                           : c >= 'a' && c <= 'f'             ? (unsigned)(c - 'a' + 10)
                                                              : 99u;
    if (digit >= base) return false;
    number = number * base + digit;
    if (number > UINT32_MAX) return false;
  }
  *value = (uint32_t)number;
  return true;
}

int emulate_attribute_write(struct emulation *emulation, unsigned device_id, unsigned index, const char *text,
                            size_t length) {
  struct device *device = device_of(emulation, device_id);
  uint32_t value;
  int result = 0;
  if (!parse(text, length, &value)) return -EPERM;
  emulate_collect(emulation, device_id);
  emulate_lock(emulation, device_id);
  journal_begin(device);
  SAVE(device, &device->control);
  if (index == FUNCTION_RESET) {
    result = value == 1 ? 0 : -EINVAL;
  } else if (index == INGRESS_ERROR_ENABLE) {
    device->control.ingress_errors_enabled = value != 0;
  } else if (index <= SN_GROUP_1) {
    result = set_sn_allocation(device, index - SN_GROUP_0, value);
  } else {
    result = set_cos_bandwidth(device, index - COS_0, value);
  }
  journal_commit(device);
  journal_end(device);
  if (index == FUNCTION_RESET && result == 0) function_reset(emulation, device);
  emulate_unlock(emulation, device_id);
  return result;
}
