/* Small things that every file uses: releasing by scope, retrying on EINTR, reporting. */
#ifndef COCORE_UTIL_H
#define COCORE_UTIL_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

static inline void close_fd(int *fd)
{
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

/* The variable's file descriptor is closed when it goes out of scope; set it to -1 to give it away. */
#define scoped_fd __attribute__((cleanup(close_fd))) int

#define RETRY(expression)                                                                          \
  ({                                                                                               \
    long retried;                                                                                  \
    do                                                                                             \
      retried = (long) (expression);                                                               \
    while (retried < 0 && errno == EINTR);                                                         \
    retried;                                                                                       \
  })

/* The stages of a FAULT frame. */
enum stage
{
  STAGE_SETUP = 1,
  STAGE_IMAGE = 2,
  STAGE_START = 3,
  STAGE_PROTOCOL = 4,
};

#define FAULT_MESSAGE_MAX 1024

/* Why a task cannot be started or kept: what a FAULT frame carries. */
struct fault
{
  enum stage stage;
  int error;
  char message[FAULT_MESSAGE_MAX + 1];
};

/* Fills `fault` and returns -1, so that a caller can `return fail(...)`. */
__attribute__((format(printf, 4, 5))) int fail(struct fault *fault, enum stage stage, int error,
                                               const char *format, ...);

/* Writes the whole text to a file of /proc or /sys. Returns 0, or -1 with errno. */
int write_file(const char *path, const char *text);

/* Reads at most `size` - 1 bytes and ends them with a NUL. Returns the count, or -1 with errno. */
long read_file(const char *path, char *text, size_t size);

/* The value of `NAME=` in the kernel's command line `line` (words apart by spaces). False when it is not there or too long. */
bool option_of(const char *line, const char *name, char *value, size_t size);

#endif
