/*
 * What a function leaves in its exchange directory: `result`, a file with JSON, and `out`, a directory of artifacts. It is looked at when every
 * process that could change it is dead, and nothing in it is trusted: only regular files are read, no link is followed.
 *
 * Shared with the launcher of containers (packages/worker/launcher).
 */
#ifndef COCORE_LEAVINGS_H
#define COCORE_LEAVINGS_H

#include "archive.h"

#define RESULT_NAME "result"
#define ARTIFACTS_NAME "out"
#define RESULT_MAX_BYTES (256u * 1024)
#define REFUSAL_MESSAGE_MAX 256

/* The last is the number of kinds. */
enum refused
{
  REFUSED_NOTHING,
  REFUSED_RESULT,
  REFUSED_ARTIFACTS,
};

struct leavings
{
  uint8_t *result;
  size_t result_length;
  struct archive artifacts;
  /* What was not taken, of both the first, and why; then neither is given. */
  enum refused refused;
  char message[REFUSAL_MESSAGE_MAX];
};

/* Makes an exchange directory at `path`, for any user of the container; `owner` is the container's root. Returns 0, or -1 with errno. */
int exchange_make(const char *path, uint32_t owner);

/* Looks at the exchange directory of this descriptor, which stays the caller's; -1 is one without anything. */
void leavings_open(struct leavings *leavings, int exchange, uint64_t max_artifacts_bytes);

/* At most `size` bytes of the result, from `offset` on. Returns the count. */
long result_read(const struct leavings *leavings, uint64_t offset, uint8_t *to, size_t size);

void leavings_close(struct leavings *leavings);

#endif
