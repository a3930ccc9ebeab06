/*
 * Files that a function is given in its working directory, written into the container's root before its first process starts. The root is an image of
 * strangers: no path leads out of it.
 *
 * Shared with the launcher of containers (packages/worker/launcher).
 */
#ifndef COCORE_INPUT_H
#define COCORE_INPUT_H

#include <stdint.h>

/* Absolute paths, in bytes. */
#define INPUT_MAX_PATH 1024u

/*
 * Makes the file at `path` (absolute, as the container sees it) below the descriptor `root` in place of what may be there, with the owner given, and
 * opens it for writing. Directories that are not there are made, as `owner_of_directories`'. Returns the descriptor, or -1 with errno.
 */
int input_create(int root, const char *path, uint32_t user, uint32_t group, uint32_t owner_of_directories);

#endif
