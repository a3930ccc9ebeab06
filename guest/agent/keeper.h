/*
 * The namespaces that the container joins, and the process that keeps them.
 *
 * The keeper is PID 1 of the container's PID namespace. It only reaps, so that the function's first process need not be a
 * PID 1: signals act on it as they do anywhere, its real wait status reaches the agent, and killing the keeper kills
 * everything it left behind.
 */
#ifndef COCORE_KEEPER_H
#define COCORE_KEEPER_H

#include <sys/types.h>

#include "util.h"

struct keeper
{
  pid_t pid;
  /* The user namespace, for mapping mounts into it. */
  int user_namespace;
};

/*
 * Starts the keeper and binds its namespaces on /run/fn/ns/user and /run/fn/ns/pid; with a network, also the one that has the machine's network card, on
 * /run/fn/ns/net. Returns 0, or -1 with `fault`.
 */
int keeper_start(struct keeper *keeper, bool has_network, struct fault *fault);

#endif
