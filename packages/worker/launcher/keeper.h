/*
 * PID 1 of the sandbox's PID namespace, root of its user namespace alone. It starts the runtime when the daemon says so, reaps, and
 * reports. It is not the function's process, so signals act on that as they do anywhere; its end is the end of every process of the sandbox.
 */
#ifndef COCORE_LAUNCH_KEEPER_H
#define COCORE_LAUNCH_KEEPER_H

#include <stdbool.h>
#include <sys/types.h>

#include "runtime.h"

struct keeper
{
  pid_t pid;
  /* Written to when the jail is made. */
  int go;
};

/*
 * Starts the keeper in its new namespaces, with the ids from `base` on. It waits until the jail is made. With a network, it has a network
 * namespace too, whose interface it is given meanwhile: the runtime must be root over that.
 */
struct keeper keeper_start(uid_t base, bool has_network, const struct runtime *runtime, const struct streams *streams);

#endif
