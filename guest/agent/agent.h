/* The agent's event loop: the frame conversation with the host, and the streams of the task. */
#ifndef COCORE_AGENT_H
#define COCORE_AGENT_H

#include "task.h"

#define AGENT_VERSION "0.1.0"

/* How the host reaches the agent: on a stream that is there from the start, or by connecting to a socket. The other is -1; both are non-blocking. */
struct endpoint
{
  int stream;
  int listener;
};

/*
 * Serves the host until the guest is to be powered off, and then asks the platform for that. `silence_ms`: how long the host may leave
 * out its PING.
 */
_Noreturn void agent_run(struct endpoint endpoint, const struct platform *platform, int silence_ms);

#endif
