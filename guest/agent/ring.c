#include "ring.h"

#include <string.h>

static size_t min(size_t one, size_t other)
{
  return one < other ? one : other;
}

void progress_sent(struct progress *progress, size_t length)
{
  progress->sent += length;
  if (progress->reached < progress->sent)
    progress->reached = progress->sent;
}

bool progress_acknowledge(struct progress *progress, uint64_t offset)
{
  if (offset < progress->acked || offset > progress->reached)
    return false;
  progress->acked = offset;
  if (progress->sent < offset)
    progress->sent = offset;
  return true;
}

void progress_rewind(struct progress *progress)
{
  progress->sent = progress->acked;
}

size_t ring_space(struct ring *ring, uint8_t **at)
{
  size_t from = (size_t) (ring->at.end % RING_BYTES);
  *at = ring->bytes + from;
  return min(RING_BYTES - from, RING_BYTES - (size_t) (ring->at.end - ring->at.acked));
}

void ring_filled(struct ring *ring, size_t length)
{
  ring->at.end += length;
}

size_t ring_take(struct ring *ring, uint8_t *out, size_t max, uint64_t *offset)
{
  size_t length = min(max, (size_t) (ring->at.end - ring->at.sent));
  size_t from = (size_t) (ring->at.sent % RING_BYTES);
  size_t first = min(length, RING_BYTES - from);
  *offset = ring->at.sent;
  memcpy(out, ring->bytes + from, first);
  memcpy(out + first, ring->bytes, length - first);
  progress_sent(&ring->at, length);
  return length;
}
