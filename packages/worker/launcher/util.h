/* Small things that every file uses. A step that fails says so to the daemon and ends the process: nothing is undone by hand, the
 * kernel takes namespaces and mounts away with their last process. */
#ifndef COCORE_LAUNCH_UTIL_H
#define COCORE_LAUNCH_UTIL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* The daemon's end of this socket says what to do and is told what happens, see `sandbox/oci/launcher.ts`. */
#define CONTROL_FD 3
/* Sockets that take what the function left, once it has ended. */
#define RESULT_FD 4
#define ARTIFACTS_FD 5

#define RETRY(expression)                                                                          \
  ({                                                                                               \
    long retried;                                                                                  \
    do                                                                                             \
      retried = (long) (expression);                                                               \
    while (retried < 0 && errno == EINTR);                                                         \
    retried;                                                                                       \
  })

/* The stages of a FAULT frame that begin here. */
#define SETUP "setup"
#define IMAGE "image"
#define START "start"

/* One line to the daemon. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* Says `fault STAGE ERRNO MESSAGE`, with errno as it is now, and ends the process. */
__attribute__((format(printf, 2, 3))) _Noreturn void fault(const char *stage, const char *format, ...);

/* Writes the whole text to a file that exists. Returns 0, or -1 with errno. */
int write_file(const char *path, const char *text);

/* Reads the last `size` - 1 bytes of a file and ends them with a NUL. Returns the count, or -1 with errno. */
long read_tail(const char *path, char *text, size_t size);

/* What must be in the environment. */
const char *setting(const char *name);

#endif
