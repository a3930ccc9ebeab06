/*
 * The conversation with the daemon, over one socket: frames in both directions, each a header and its bytes, numbers in little endian.
 *
 *   u8 type, u8 0, u16 bytes that follow, u32 id
 *
 * From the gate:                                       From the daemon:
 *   'r'  it listens                                      'g'  connection `id` may go, to: u32 address, u16 port
 *   'f'  it cannot; why, as text                         't'  the same, through the daemon's socket
 *   'w'  connection `id` wants: u32 address, u16 port    'n'  connection `id` may not
 *   'd'  a datagram to the name server, from port `id`   'a'  the answer to port `id`
 *   'c'  what passed: u64 bytes sent, u64 received,      'q'  what has passed?
 *        u32 connections made, u32 refused
 *   'x'  as many bytes have passed as may
 */
#ifndef COCORE_GATE_CONTROL_H
#define COCORE_GATE_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTROL_FD 3
#define FRAME_MAX_BYTES 1024

struct frame
{
  uint8_t type;
  uint32_t id;
  uint16_t length;
  const uint8_t *bytes;
};

/* Takes a frame to the daemon; it is sent as the daemon takes it. False when there is no room for it: what a guest may lose is then lost. */
bool control_say(uint8_t type, uint32_t id, const void *bytes, size_t length);

/* Sends what waits, as far as the daemon takes it. */
void control_flush(void);

/* Reads what the daemon said and calls `obey` with each frame. A daemon that has ended ends the process. */
void control_read(void (*obey)(const struct frame *frame));

/* Says 'f' with errno as it is now, and ends the process. Before the first frame of any other type. */
__attribute__((format(printf, 1, 2))) _Noreturn void give_up(const char *format, ...);

#endif
