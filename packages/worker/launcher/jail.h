/* What the runtime sees of the host. */
#ifndef COCORE_LAUNCH_JAIL_H
#define COCORE_LAUNCH_JAIL_H

#include <sys/types.h>

#include "drives.h"

struct jail
{
  /* The sandbox's directory on the host: `bundle` (the configuration) and the empty `root` are in it. */
  const char *directory;
  struct drives drives;
  /* PID 1 of the sandbox's PID namespace, whose /proc the jail shows. */
  pid_t keeper;
};

/* Makes the jail in this mount namespace, and leaves everything else of it. */
void enter_jail(const struct jail *jail);

#endif
