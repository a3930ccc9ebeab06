/* The guest's own file systems, and those of its one task. */
#ifndef COCORE_MOUNTS_H
#define COCORE_MOUNTS_H

#include "util.h"

/* Where the container's user namespace begins on the guest: its root is this user. */
#define CONTAINER_ID 100000
#define CONTAINER_IDS 65536

/* The root that the container gets. */
#define TASK_ROOT "/run/fn/rootfs"
/* Where the task leaves its result and artifacts; the container sees it as /cocore. */
#define EXCHANGE "/run/fn/scratch/exchange"

/* Mounts /proc, /sys, /dev, the control groups and /run, inserts the modules, and leaves the initramfs. Returns 0, or -1 with `fault`. */
int guest_set_up(struct fault *fault);

/* Whether the machine has a network card. */
bool has_network_card(void);

/* Inserts the modules that `list` names. Returns 0, or -1 with `fault`. */
int insert_modules(const char *list, struct fault *fault);

/*
 * Mounts the task's drives below /run/fn. Image and code are mapped into the user namespace `user_namespace` (a file
 * descriptor), so that their root is the container's root. Returns 0, or -1 with `fault`.
 */
int task_mount(int user_namespace, struct fault *fault);

#endif
