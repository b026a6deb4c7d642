// A library for LD_PRELOAD that fails one system call or allocation of a program, for tests of what
// the program leaves behind.
//
//   FAULT_FOLDER  only calls on files below this folder count (an absolute path without links)
//   FAULT_KIND    write, fsync, rename, mmap, open, mkdir, space or alloc
//   FAULT_AT      which call of that kind fails, from 1; absent: none
//   FAULT_REPORT  a file that gets a line "kind count" for each kind at the program's exit
//
// Allocations of 64 KiB and more count, from the first file below the folder that the program opens
// on.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum Kind { kWrite, kFsync, kRename, kMmap, kOpen, kMkdir, kSpace, kAlloc, kKinds };

static const char* const kNames[kKinds] = {"write", "fsync", "rename", "mmap",
                                           "open",  "mkdir", "space",  "alloc"};
static const int kErrors[kKinds] = {ENOSPC, EIO, EIO, ENOMEM, ENOSPC, ENOSPC, ENOSPC, ENOMEM};
static const size_t kLargeAllocation = 64 << 10;

static atomic_long counts[kKinds];
static atomic_bool has_begun;
static char folder[PATH_MAX];
static size_t folder_length;
static enum Kind failing = kKinds;
static long failing_at;

__attribute__((constructor)) static void read_environment(void) {
  const char* wanted = getenv("FAULT_FOLDER");
  const char* kind = getenv("FAULT_KIND");
  const char* at = getenv("FAULT_AT");
  if (wanted != NULL) snprintf(folder, sizeof folder, "%s", wanted);
  folder_length = strlen(folder);
  for (int i = 0; kind != NULL && i < kKinds; ++i) {
    if (strcmp(kind, kNames[i]) == 0) failing = (enum Kind)i;
  }
  failing_at = at == NULL ? 0 : atol(at);
}

__attribute__((destructor)) static void report(void) {
  const char* path = getenv("FAULT_REPORT");
  FILE* file = path == NULL ? NULL : fopen(path, "w");
  if (file == NULL) return;
  for (int i = 0; i < kKinds; ++i) fprintf(file, "%s %ld\n", kNames[i], counts[i]);
  fclose(file);
}

// Counts a call; true if it is the one to fail, and errno says why.
static bool fails(enum Kind kind) {
  const long number = atomic_fetch_add(&counts[kind], 1) + 1;
  if (kind != failing || number != failing_at) return false;
  errno = kErrors[kind];
  return true;
}

static bool is_watched_path(int at, const char* path) {
  if (folder_length == 0 || path == NULL) return false;
  char absolute[2 * PATH_MAX], base[PATH_MAX] = "";
  if (path[0] != '/') {
    if (at == AT_FDCWD) {
      if (getcwd(base, sizeof base) == NULL) return false;
    } else {
      char link[64];
      snprintf(link, sizeof link, "/proc/self/fd/%d", at);
      const ssize_t length = readlink(link, base, sizeof base - 1);
      if (length < 0) return false;
      base[length] = '\0';
    }
  }
  snprintf(absolute, sizeof absolute, "%s/%s", base, path);
  const char* start = absolute[1] == '/' ? absolute + 1 : absolute;  // of a path that was absolute
  return strncmp(start, folder, folder_length) == 0;
}

static bool is_watched(int descriptor) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0 || path[0] != '/') return false;  // a pipe or socket
  path[length] = '\0';
  return is_watched_path(AT_FDCWD, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
// An interposed function whose first operand is a descriptor.
#define ON_DESCRIPTOR(result, kind, name, parameters, arguments) \
  result name parameters {                                       \
    static __typeof__(&name) next;                               \
    if (next == NULL) next = NEXT(name);                         \
    if (is_watched(descriptor) && fails(kind)) return -1;        \
    return next arguments;                                       \
  }
#define ON_PATH(result, kind, name, parameters, at, arguments) \
  result name parameters {                                     \
    static __typeof__(&name) next;                             \
    if (next == NULL) next = NEXT(name);                       \
    if (is_watched_path(at, path) && fails(kind)) return -1;   \
    return next arguments;                                     \
  }

ON_DESCRIPTOR(ssize_t, kWrite, write, (int descriptor, const void* data, size_t size),
              (descriptor, data, size))
ON_DESCRIPTOR(ssize_t, kWrite, pwrite,
              (int descriptor, const void* data, size_t size, off_t offset),
              (descriptor, data, size, offset))
ON_DESCRIPTOR(ssize_t, kWrite, pwrite64,
              (int descriptor, const void* data, size_t size, off64_t offset),
              (descriptor, data, size, offset))
ON_DESCRIPTOR(ssize_t, kWrite, writev, (int descriptor, const struct iovec* pieces, int count),
              (descriptor, pieces, count))
ON_DESCRIPTOR(ssize_t, kWrite, sendfile, (int descriptor, int from, off_t* offset, size_t size),
              (descriptor, from, offset, size))
ON_DESCRIPTOR(ssize_t, kWrite, sendfile64, (int descriptor, int from, off64_t* offset, size_t size),
              (descriptor, from, offset, size))
ON_DESCRIPTOR(int, kFsync, fsync, (int descriptor), (descriptor))
ON_DESCRIPTOR(int, kFsync, fdatasync, (int descriptor), (descriptor))
ON_DESCRIPTOR(int, kSpace, ftruncate, (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR(int, kSpace, ftruncate64, (int descriptor, off64_t size), (descriptor, size))
ON_PATH(int, kRename, rename, (const char* from, const char* path), AT_FDCWD, (from, path))
ON_PATH(int, kRename, renameat, (int from_at, const char* from, int at, const char* path), at,
        (from_at, from, at, path))
ON_PATH(int, kRename, renameat2,
        (int from_at, const char* from, int at, const char* path, unsigned flags), at,
        (from_at, from, at, path, flags))
ON_PATH(int, kMkdir, mkdir, (const char* path, mode_t mode), AT_FDCWD, (path, mode))
ON_PATH(int, kMkdir, mkdirat, (int at, const char* path, mode_t mode), at, (at, path, mode))
ON_PATH(int, kOpen, symlink, (const char* target, const char* path), AT_FDCWD, (target, path))

// These return the error itself.
int posix_fallocate(int descriptor, off_t offset, off_t size) {
  if (is_watched(descriptor) && fails(kSpace)) return ENOSPC;
  return NEXT(posix_fallocate)(descriptor, offset, size);
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t size) {
  if (is_watched(descriptor) && fails(kSpace)) return ENOSPC;
  return NEXT(posix_fallocate64)(descriptor, offset, size);
}

void* mmap(void* address, size_t size, int protection, int flags, int descriptor, off_t offset) {
  static __typeof__(&mmap) next;
  if (next == NULL) next = NEXT(mmap);
  if (descriptor >= 0 && is_watched(descriptor) && fails(kMmap)) return MAP_FAILED;
  return next(address, size, protection, flags, descriptor, offset);
}

void* mmap64(void* address, size_t size, int protection, int flags, int descriptor,
             off64_t offset) {
  return mmap(address, size, protection, flags, descriptor, offset);
}

// Files that are opened to be made count; any file tells that the work has begun.
static bool opening_fails(int at, const char* path, bool creates) {
  if (!is_watched_path(at, path)) return false;
  has_begun = true;
  return creates && fails(kOpen);
}

#define OPEN(name, at, parameters, arguments)                         \
  int name parameters {                                               \
    mode_t mode = 0;                                                  \
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) { \
      va_list rest;                                                   \
      va_start(rest, flags);                                          \
      mode = va_arg(rest, mode_t);                                    \
      va_end(rest);                                                   \
    }                                                                 \
    if (opening_fails(at, path, (flags & O_CREAT) != 0)) return -1;   \
    return NEXT(name) arguments;                                      \
  }
OPEN(open, AT_FDCWD, (const char* path, int flags, ...), (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char* path, int flags, ...), (path, flags, mode))
OPEN(openat, at, (int at, const char* path, int flags, ...), (at, path, flags, mode))
OPEN(openat64, at, (int at, const char* path, int flags, ...), (at, path, flags, mode))

FILE* fopen(const char* path, const char* mode) {
  if (opening_fails(AT_FDCWD, path, mode[0] != 'r')) return NULL;
  return NEXT(fopen)(path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  if (opening_fails(AT_FDCWD, path, mode[0] != 'r')) return NULL;
  return NEXT(fopen64)(path, mode);
}

// The C library's own names, because dlsym allocates.
extern void* __libc_malloc(size_t size);
extern void* __libc_calloc(size_t count, size_t size);
extern void* __libc_realloc(void* old, size_t size);
extern void* __libc_memalign(size_t alignment, size_t size);

static bool allocation_fails(size_t size) {
  return size >= kLargeAllocation && has_begun && fails(kAlloc);
}

void* malloc(size_t size) { return allocation_fails(size) ? NULL : __libc_malloc(size); }

void* calloc(size_t count, size_t size) {
  return allocation_fails(count * size) ? NULL : __libc_calloc(count, size);
}

void* realloc(void* old, size_t size) {
  return allocation_fails(size) ? NULL : __libc_realloc(old, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  return allocation_fails(size) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) {
  void* data = allocation_fails(size) ? NULL : __libc_memalign(alignment, size);
  if (data == NULL) return ENOMEM;
  *result = data;
  return 0;
}
