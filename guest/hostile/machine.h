/* What the guest has of its machine: the way to the host, the script, and the power. */
#ifndef COCORE_HOSTILE_MACHINE_H
#define COCORE_HOSTILE_MACHINE_H

#include <stdbool.h>

#define SCRIPT_BYTES 65536

/* As the agent is reached: by the kernel's command line, on a vsock port or on the virtio port. Does not return where there is neither. */
void open_port(void);

/* The stream to the host, non-blocking. On vsock it is the host's newest connection; waits for one. */
int host_stream(void);

/* The host has ended the connection: on vsock, there will be another. */
void drop_stream(void);

void close_port(void);

/*
 * Reads the script of a drive that begins with `head`. False when there is none: the drives of a snapshot are placeholders. `script` has room for
 * SCRIPT_BYTES + 1.
 */
bool find_script(const char *head, char *script);

_Noreturn void power_off(void);

void sleep_ms(long ms);

#endif
