/* The agent's event loop: the frame conversation with the host, and the streams of the task. */
#ifndef COCORE_AGENT_H
#define COCORE_AGENT_H

#include "task.h"

#define AGENT_VERSION "0.1.0"

/*
 * Serves the host on `host` (non-blocking, opened by the caller) until the guest is to be powered off, and then asks the
 * platform for that. `silence_ms`: how long the host may leave out its PING.
 */
_Noreturn void agent_run(int host, const struct platform *platform, int silence_ms);

#endif
