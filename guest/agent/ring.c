#include "ring.h"

#include <string.h>

static size_t min(size_t one, size_t other)
{
  return one < other ? one : other;
}

size_t ring_space(struct ring *ring, uint8_t **at)
{
  size_t from = (size_t) (ring->end % RING_BYTES);
  *at = ring->bytes + from;
  return min(RING_BYTES - from, RING_BYTES - (size_t) (ring->end - ring->acked));
}

void ring_filled(struct ring *ring, size_t length)
{
  ring->end += length;
}

size_t ring_take(struct ring *ring, uint8_t *out, size_t max, uint64_t *offset)
{
  size_t length = min(max, (size_t) (ring->end - ring->sent));
  size_t from = (size_t) (ring->sent % RING_BYTES);
  size_t first = min(length, RING_BYTES - from);
  *offset = ring->sent;
  memcpy(out, ring->bytes + from, first);
  memcpy(out + first, ring->bytes, length - first);
  ring->sent += length;
  if (ring->reached < ring->sent)
    ring->reached = ring->sent;
  return length;
}

bool ring_acknowledge(struct ring *ring, uint64_t offset)
{
  if (offset < ring->acked || offset > ring->reached)
    return false;
  ring->acked = offset;
  if (ring->sent < offset)
    ring->sent = offset;
  return true;
}

void ring_rewind(struct ring *ring)
{
  ring->sent = ring->acked;
}
