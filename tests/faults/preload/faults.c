/*
 * Makes the disk and the wall clock of one process fail, by LD_PRELOAD: a test changes the file that COCORE_FAULTS names, and what is
 * written there holds from then on. Failing are only regular files above standard error.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Little-endian; the test writes the same. */
struct faults {
  /* What fsync and fdatasync fail with; 0 for not. */
  _Atomic int32_t sync_errno;
  /* What writes fail with; 0 for not. */
  _Atomic int32_t write_errno;
  /* What the wall clock is ahead by. */
  _Atomic int64_t wall_ahead_ms;
};

static struct faults none;
static struct faults *faults = &none;

__attribute__ ((constructor)) static void
open_faults (void)
{
  const char *path = getenv ("COCORE_FAULTS");
  if (path == NULL)
    return;
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  void *map = mmap (NULL, sizeof (struct faults), PROT_READ, MAP_SHARED, fd, 0);
  close (fd);
  if (map != MAP_FAILED)
    faults = map;
}

/* Sets errno and says so when a call on this file shall fail. */
static int
fails (int fd, int32_t with)
{
  struct stat info;
  if (with == 0 || fd <= STDERR_FILENO || fstat (fd, &info) != 0 || ! S_ISREG (info.st_mode))
    return 0;
  errno = with;
  return 1;
}

#define NEXT(name) \
  static __typeof__ (&name) next; \
  if (next == NULL) \
    next = (__typeof__ (&name)) dlsym (RTLD_NEXT, #name)

#define FAILING(type, name, which, parameters, arguments) \
  type name parameters \
  { \
    NEXT (name); \
    return fails (fd, faults->which) ? -1 : next arguments; \
  }

FAILING (int, fsync, sync_errno, (int fd), (fd))
FAILING (int, fdatasync, sync_errno, (int fd), (fd))
FAILING (ssize_t, write, write_errno, (int fd, const void *data, size_t size), (fd, data, size))
FAILING (ssize_t, pwrite, write_errno, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
FAILING (ssize_t, pwrite64, write_errno, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
FAILING (ssize_t, writev, write_errno, (int fd, const struct iovec *parts, int count), (fd, parts, count))
FAILING (ssize_t, pwritev, write_errno, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
FAILING (ssize_t, pwritev64, write_errno, (int fd, const struct iovec *parts, int count, off64_t at),
         (fd, parts, count, at))

int
clock_gettime (clockid_t clock, struct timespec *now)
{
  NEXT (clock_gettime);
  int result = next (clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += faults->wall_ahead_ms / 1000;
  return result;
}

int
gettimeofday (struct timeval *restrict now, void *restrict zone)
{
  NEXT (gettimeofday);
  int result = next (now, zone);
  if (result == 0)
    now->tv_sec += faults->wall_ahead_ms / 1000;
  return result;
}

time_t
time (time_t *result)
{
  struct timespec now;
  clock_gettime (CLOCK_REALTIME, &now);
  if (result != NULL)
    *result = now.tv_sec;
  return now.tv_sec;
}
