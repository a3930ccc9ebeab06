/* How far a stream to the host has come, and the bytes of one that cannot be read again. */
#ifndef COCORE_RING_H
#define COCORE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_BYTES (512u * 1024)

/* acked <= sent <= reached <= end; all are offsets in the stream. */
struct progress
{
  uint64_t acked;
  uint64_t sent;
  /* The furthest that was sent on any connection. */
  uint64_t reached;
  uint64_t end;
};

/* `length` bytes more have been sent. */
void progress_sent(struct progress *progress, size_t length);
/*
 * The host holds everything before `offset`. False when it cannot, because that was never sent or is older than an acknowledgement before.
 * On a new connection it may be ahead of what was sent again: that much need not be.
 */
bool progress_acknowledge(struct progress *progress, uint64_t offset);
/* A new connection: what was not acknowledged is sent again. */
void progress_rewind(struct progress *progress);

/*
 * One output stream between the function's pipe and the host: bytes are kept from when they are read until the
 * host has acknowledged them, so that a new connection can be sent them again. end - acked <= RING_BYTES.
 */
struct ring
{
  struct progress at;
  uint8_t bytes[RING_BYTES];
};

/* A piece of contiguous memory that new bytes may be read into; 0 long when the ring is full. */
size_t ring_space(struct ring *ring, uint8_t **at);
/* Says that `length` bytes were put there. */
void ring_filled(struct ring *ring, size_t length);
/* Takes at most `max` unsent bytes, from offset `*offset` on, into `out`. Returns how many; they count as sent. */
size_t ring_take(struct ring *ring, uint8_t *out, size_t max, uint64_t *offset);

#endif
