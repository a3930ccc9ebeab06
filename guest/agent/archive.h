/*
 * A directory as a tar archive (POSIX pax) that is never held whole: any piece of it can be made again at any time, as long as nothing below the
 * directory changes. It holds regular files and directories, and nothing else that may be there; no link is followed. Entries are in
 * the order of their paths, their owner is 0, their time 0, and their mode 644 or 755.
 *
 * Shared with the launcher of containers (packages/worker/launcher).
 */
#ifndef COCORE_ARCHIVE_H
#define COCORE_ARCHIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Files and directories together. */
#define ARCHIVE_MAX_ENTRIES 1000u
/* One path below the directory, in bytes. */
#define ARCHIVE_MAX_PATH 1024u

struct archive_entry
{
  /* Relative; a directory's ends with a slash. */
  char *path;
  bool executable;
  uint64_t size;
  /* Of its first byte in the archive. */
  uint64_t offset;
};

struct archive
{
  /* A descriptor of the directory, which is the archive's to close. */
  int directory;
  struct archive_entry *entries;
  size_t count;
  uint32_t files;
  /* 0 when there is nothing to archive. */
  uint64_t length;
  /* The file that was read last, kept open. */
  int open_file;
  const struct archive_entry *opened;
};

/*
 * Looks at what is below `directory`. Returns 0; or -1 when it is more than `max_length` bytes as an archive, or more than an archive here can hold,
 * or cannot be read: then `why` says so, and the archive is as closed. The descriptor is taken in any case.
 */
int archive_open(struct archive *archive, int directory, uint64_t max_length, char *why, size_t why_size);

/* Makes at most `size` bytes of the archive, from `offset` on. Returns the count (0 only at the end), or -1 with errno when a file is not what it was. */
long archive_read(struct archive *archive, uint64_t offset, uint8_t *to, size_t size);

void archive_close(struct archive *archive);

#endif
