/* Which block device a drive is. */
#ifndef COCORE_DRIVES_H
#define COCORE_DRIVES_H

#include <stddef.h>

/*
 * A monitor that gives its drives no serial number says their order instead, on the kernel's command line:
 * `cocore.drives=NAME,NAME,...`, where the first name is /dev/vda, the second /dev/vdb, and so on, to /dev/vdz.
 *
 * Returns 0 with the device's path, 1 when the order does not have the name, or -1 when there is no order on the line.
 */
int drive_by_order(const char *command_line, const char *name, char *path, size_t size);

#endif
