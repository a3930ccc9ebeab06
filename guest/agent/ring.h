/*
 * One output stream between the function's pipe and the host: bytes are kept from when they are read until the
 * host has acknowledged them, so that a new connection can be sent them again.
 *
 *   acked <= sent <= reached <= end, and end - acked <= RING_BYTES; all are offsets in the stream.
 */
#ifndef COCORE_RING_H
#define COCORE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_BYTES (512u * 1024)

struct ring
{
  uint64_t acked;
  uint64_t sent;
  /* The furthest that was sent on any connection. */
  uint64_t reached;
  uint64_t end;
  uint8_t bytes[RING_BYTES];
};

/* A piece of contiguous memory that new bytes may be read into; 0 long when the ring is full. */
size_t ring_space(struct ring *ring, uint8_t **at);
/* Says that `length` bytes were put there. */
void ring_filled(struct ring *ring, size_t length);
/* Takes at most `max` unsent bytes, from offset `*offset` on, into `out`. Returns how many; they count as sent. */
size_t ring_take(struct ring *ring, uint8_t *out, size_t max, uint64_t *offset);
/*
 * The host holds everything before `offset`. False when it cannot, because that was never sent or is older than an acknowledgement before.
 * On a new connection it may be ahead of what was sent again: that much need not be.
 */
bool ring_acknowledge(struct ring *ring, uint64_t offset);
/* A new connection: what was not acknowledged is sent again. */
void ring_rewind(struct ring *ring);

#endif
