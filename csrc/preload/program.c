/* A library is put into a program by its dynamic loader: not into one that has none, nor into one that is to have more
 * rights than its user. */
#define _GNU_SOURCE
#include "program.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MAX_INTERPRETERS 4 /* of a script, whose interpreter may be a script, too */

/* As execvp does. False if there is no such program. */
static bool find(const char *name, char path[PATH_MAX]) {
  const char *folders = getenv("PATH");
  if (strchr(name, '/') != NULL) return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
  for (const char *at = folders == NULL ? "/bin:/usr/bin" : folders; *at != 0;) {
    const size_t length = strcspn(at, ":");
    const int wanted = snprintf(path, PATH_MAX, "%.*s/%s", (int)length, at, name);
    if (length > 0 && wanted < PATH_MAX && access(path, X_OK) == 0) return true;
    at += length + (at[length] == ':');
  }
  return false;
}

static bool gains_rights(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return false;
  if (status.st_mode & S_ISUID && status.st_uid != getuid()) return true;
  if (status.st_mode & S_ISGID && status.st_mode & S_IXGRP && status.st_gid != getgid()) return true;
  return getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0;
}

/* A loader that is started as a program has none itself. */
static bool is_loader(const char *path) {
  const char *slash = strrchr(path, '/');
  return strncmp(slash == NULL ? path : slash + 1, "ld-", 3) == 0 || strstr(path, "/ld.so") != NULL;
}

static bool has_loader(int fd, const Elf64_Ehdr *header) {
  for (unsigned i = 0; i < header->e_phnum; i++) {
    Elf64_Phdr part;
    const off_t at = (off_t)(header->e_phoff + (uint64_t)i * header->e_phentsize);
    if (pread(fd, &part, sizeof part, at) != (ssize_t)sizeof part) return true;
    if (part.p_type == PT_INTERP) return true;
  }
  return false;
}

static const char *obstacle_of(int fd, const char *path, const Elf64_Ehdr *header) {
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_X86_64) return "it is no x86-64 program";
  if (gains_rights(fd)) return "it is given other rights than its user has, so no library can be put into it";
  if (!has_loader(fd, header) && !is_loader(path)) return "it is linked statically, so no library can be put into it";
  return NULL;
}

/* As much as the kernel looks at. */
union start {
  char text[257];
  Elf64_Ehdr header;
};

static ssize_t read_start(int fd, union start *start) {
  const ssize_t length = read(fd, start->text, sizeof start->text - 1);
  start->text[length < 0 ? 0 : length] = 0;
  return length;
}

/* The interpreter that a script's first line names, into `path`. */
static bool find_interpreter(const union start *start, char path[PATH_MAX]) {
  return sscanf(start->text, "#! %256s", path) == 1;
}

const char *program_obstacle(const char *name) {
  char path[PATH_MAX];
  bool found = find(name, path);
  for (unsigned i = 0; i < MAX_INTERPRETERS && found; i++) {
    union start start;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    const ssize_t length = read_start(fd, &start);
    const bool is_program = length >= (ssize_t)sizeof start.header && memcmp(start.text, ELFMAG, SELFMAG) == 0;
    const char *obstacle = is_program ? obstacle_of(fd, path, &start.header) : NULL;
    close(fd);
    if (is_program) return obstacle;
    found = find_interpreter(&start, path);
  }
  return NULL;
}
