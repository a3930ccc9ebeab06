/* The connections of a guest: each is two sockets, and two pipes through which the kernel moves the bytes without this process seeing them. */
#ifndef COCORE_GATE_RELAY_H
#define COCORE_GATE_RELAY_H

#include <stdint.h>

#include "control.h"

/* At once; a further one waits to be accepted. */
#define CONNECTIONS_MAX 256
/* Two sockets and two pipes each. */
#define FILES_PER_CONNECTION 6

/* `poll` is the epoll that reports what happens; `limit` how many bytes may pass in both directions together. */
void relay_begin(int poll, int listener, uint64_t limit);

/* Something has come to the listener, or there is room again. */
void relay_accept(void);

/* Something has happened to a socket that was registered with this number, which is not less than RELAY_FIRST. */
#define RELAY_FIRST 16u
void relay_event(uint64_t number, uint32_t events);

/* The daemon's word on a connection. */
void relay_obey(const struct frame *frame);

/* What is to be done now, whatever has happened. Returns after how many milliseconds it is to be called again at the latest, or -1. */
int relay_tick(void);

/* Says 'c'. */
void relay_count(void);

#endif
