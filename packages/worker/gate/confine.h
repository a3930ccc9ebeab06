/* What is left to the gate once it listens. */
#ifndef COCORE_GATE_CONFINE_H
#define COCORE_GATE_CONFINE_H

#include <sys/types.h>

/* Dies with the daemon, also when that has died already. To be said again after the user changes. */
void die_with_daemon(pid_t daemon);

/*
 * Gives up root for the user `uid`, with `root` as its file system, no way to a further privilege, no more than `files` descriptors, and the system
 * calls that moving bytes takes.
 */
void confine(uid_t uid, const char *root, unsigned files, pid_t daemon);

#endif
