/* The file systems of one sandbox: image, code and scratch. */
#ifndef COCORE_LAUNCH_DRIVES_H
#define COCORE_LAUNCH_DRIVES_H

#include <sys/types.h>

struct drives
{
  /* Files on the host. */
  const char *image, *code, *scratch;
  /* The host's id of the container's root. */
  uid_t base;
  /* A descriptor of the container's user namespace. */
  int user_namespace;
};

/*
 * Mounts, below the working directory: `rootfs` (the image under a writable layer on scratch) and `code`. Image and code are mapped
 * into the user namespace, so that their root is the container's root.
 */
void mount_drives(const struct drives *drives);

#endif
