#include "leavings.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util.h"

int exchange_make(const char *path, uint32_t owner)
{
  if (mkdir(path, 0755) < 0)
    return -1;
  scoped_fd fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* By mode and not by umask: the function may run as any user. */
  return fd < 0 || mkdirat(fd, ARTIFACTS_NAME, 0755) < 0 || fchownat(fd, ARTIFACTS_NAME, owner, owner, 0) < 0 ||
                 fchmodat(fd, ARTIFACTS_NAME, 0777, 0) < 0 || fchown(fd, owner, owner) < 0 || fchmod(fd, 01777) < 0
             ? -1
             : 0;
}

static int refuse_result(struct leavings *leavings, const char *why)
{
  leavings->refused = REFUSED_RESULT;
  snprintf(leavings->message, sizeof leavings->message, "the result %s", why);
  return -1;
}

static int open_result(struct leavings *leavings, int exchange)
{
  struct stat status;
  if (fstatat(exchange, RESULT_NAME, &status, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT ? 0 : refuse_result(leavings, strerror(errno));
  if (!S_ISREG(status.st_mode))
    return refuse_result(leavings, "is not a regular file");
  scoped_fd fd = openat(exchange, RESULT_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
    return refuse_result(leavings, "cannot be read");
  if (status.st_size > RESULT_MAX_BYTES) {
    char why[80];
    snprintf(why, sizeof why, "is %lld bytes long, of which it may be %u", (long long) status.st_size, RESULT_MAX_BYTES);
    return refuse_result(leavings, why);
  }
  leavings->result = malloc((size_t) status.st_size + 1);
  if (leavings->result == NULL)
    return refuse_result(leavings, "cannot be read: no memory");
  while (leavings->result_length < (size_t) status.st_size) {
    long count = RETRY(pread(fd, leavings->result + leavings->result_length, (size_t) status.st_size - leavings->result_length,
                             (off_t) leavings->result_length));
    if (count <= 0)
      return refuse_result(leavings, "cannot be read");
    leavings->result_length += (size_t) count;
  }
  return 0;
}

static int open_artifacts(struct leavings *leavings, int exchange, uint64_t max_bytes)
{
  char why[REFUSAL_MESSAGE_MAX - 32];
  int fd = openat(exchange, ARTIFACTS_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  /* A function that took the directory away, or put something else there, leaves no artifacts. */
  if (fd < 0 || archive_open(&leavings->artifacts, fd, max_bytes, why, sizeof why) == 0)
    return 0;
  leavings->refused = REFUSED_ARTIFACTS;
  snprintf(leavings->message, sizeof leavings->message, "the artifacts: %s", why);
  return -1;
}

void leavings_open(struct leavings *leavings, int exchange, uint64_t max_artifacts_bytes)
{
  *leavings = (struct leavings) {.artifacts = {.directory = -1, .open_file = -1}};
  if (exchange < 0)
    return;
  if (open_result(leavings, exchange) == 0 && open_artifacts(leavings, exchange, max_artifacts_bytes) == 0)
    return;
  free(leavings->result);
  leavings->result = NULL;
  leavings->result_length = 0;
}

long result_read(const struct leavings *leavings, uint64_t offset, uint8_t *to, size_t size)
{
  size_t left = leavings->result_length - (size_t) offset;
  size_t count = left < size ? left : size;
  memcpy(to, leavings->result + offset, count);
  return (long) count;
}

void leavings_close(struct leavings *leavings)
{
  free(leavings->result);
  archive_close(&leavings->artifacts);
  *leavings = (struct leavings) {.artifacts = {.directory = -1, .open_file = -1}};
}
