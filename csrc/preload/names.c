#include "names.h"

#include <string.h>

static char *put_text(char *at, const char *text) {
  const size_t length = strlen(text);
  memcpy(at, text, length + 1);
  return at + length;
}

static char *put_number(char *at, uint64_t number) {
  char digits[20];
  size_t count = 0;
  do {
    digits[count++] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  while (count > 0) *at++ = digits[--count];
  *at = 0;
  return at;
}

const char *name_in_directory(const struct door *self, char *path, const char *rest) {
  put_text(put_text(path, self->directory), rest);
  return path;
}

const char *name_device(const struct door *self, char *path, unsigned device) {
  put_number(put_text(put_text(path, self->directory), "/dev/dlb"), device);
  return path;
}

static const char *name_object(const struct door *self, char *path, const char *kind, unsigned device,
                               uint64_t serial) {
  char *at = put_number(put_text(put_text(path, self->directory), kind), device);
  put_number(put_text(at, "-"), serial);
  return path;
}

const char *name_domain(const struct door *self, char *path, unsigned device, uint64_t serial) {
  return name_object(self, path, "/objects/domain", device, serial);
}

const char *name_producer(const struct door *self, char *path, unsigned device, uint64_t serial) {
  return name_object(self, path, "/objects/producer", device, serial);
}

const char *name_consumer(const struct door *self, char *path, unsigned device, uint64_t serial) {
  return name_object(self, path, "/objects/consumer", device, serial);
}
