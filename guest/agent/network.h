/*
 * The network of a function that has one: a wire with two ends, the same in every sandbox, since each is alone on its own. At the other end is the gate
 * (packages/worker/gate), which answers for every address.
 *
 * Shared with the launcher of containers and the gate.
 */
#ifndef COCORE_NETWORK_H
#define COCORE_NETWORK_H

#include <sys/types.h>

/* The interface that the function sees. */
#define NETWORK_INTERFACE "eth0"
#define NETWORK_GUEST "10.0.0.2"
/* The gate: the guest's route to everywhere, and its name server. */
#define NETWORK_GATE "10.0.0.1"
#define NETWORK_PREFIX 30
#define NETWORK_MASK "255.255.255.252"
#define NETWORK_GUEST_MAC "02:00:00:00:00:02"
#define NETWORK_GATE_MAC "02:00:00:00:00:01"

/* Gives an interface of this namespace to that of a process, under a new name. Returns 0, or -1 with errno. */
int network_give(const char *interface, pid_t pid, const char *name);

/* Brings one interface up. Returns 0, or -1 with errno. */
int network_raise(const char *interface);

/* Gives an interface its address. Returns 0, or -1 with errno. */
int network_address(const char *interface, const char *address);

/* Says for good which hardware an address of the interface's network is. Returns 0, or -1 with errno. */
int network_neighbour(const char *interface, const char *address, const char *mac);

/* Makes the guest's end of the wire, and the loopback, usable in this namespace. Returns 0, or -1 with errno. */
int network_set_up(void);

#endif
