/* Where the gate listens: a network namespace that holds one end of the sandbox's wire, and from which nothing is forwarded. */
#ifndef COCORE_GATE_PLACE_H
#define COCORE_GATE_PLACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The gate's end. */
#define GATE_INTERFACE "gate0"
/* The other end of a pair of virtual interfaces, until it is given to the sandbox. */
#define GUEST_INTERFACE "guest0"
/* Where the connections that were to any address arrive. */
#define GATE_PORT 4000
#define NAMES_PORT 53

struct place
{
  int connections, names;
};

/*
 * Makes the namespace and all in it, and leaves this process in the one that it was in. The namespace lives as long as somebody holds `namespace`, a descriptor of
 * this process, or is in it. With a tap, only `owner` may use it.
 */
struct place place_make(bool tap, uid_t owner, int namespace);

#endif
