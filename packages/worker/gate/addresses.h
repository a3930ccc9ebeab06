/* The second look at where a connection goes: the daemon has looked, and has the better reasons. */
#ifndef COCORE_GATE_ADDRESSES_H
#define COCORE_GATE_ADDRESSES_H

#include <stdbool.h>
#include <stdint.h>

/* Whether an address, as 32 bits of this machine's order, may be one host on the public internet; as NOT_PUBLIC_V4 of the protocol says. */
bool is_public(uint32_t address);

#endif
