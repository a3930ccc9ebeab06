#include "archive.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util.h"

#define BLOCK 512u
/* Two empty blocks end an archive. */
#define END_BYTES (2 * BLOCK)
/* The path of an entry whose header has no room for it; and its length as text. */
#define RECORD_MAX (ARCHIVE_MAX_PATH + 16)
/* The header of the extended header, the extended header, and the entry's own. */
#define HEADERS_MAX (BLOCK + (RECORD_MAX + BLOCK - 1) / BLOCK * BLOCK + BLOCK)

/* A header of the POSIX format. */
struct header
{
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], owner[32], group[32],
      device_major[8], device_minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is one block");

static uint64_t padded(uint64_t size)
{
  return (size + BLOCK - 1) / BLOCK * BLOCK;
}

static bool is_directory(const struct archive_entry *entry)
{
  return entry->path[strlen(entry->path) - 1] == '/';
}

/* Whether every reader takes the path from an ordinary header. */
static bool is_plain(const char *path)
{
  for (const char *at = path; *at != '\0'; at++)
    if (*at < ' ' || *at > '~')
      return false;
  return strlen(path) <= sizeof((struct header *) 0)->name;
}

static void put_header(uint8_t *to, const char *name, size_t name_length, bool executable, uint64_t size, char type)
{
  struct header header = {.type = type, .magic = "ustar", .version = {'0', '0'}};
  memcpy(header.name, name, name_length < sizeof header.name ? name_length : sizeof header.name);
  snprintf(header.mode, sizeof header.mode, "%07o", executable ? 0755u : 0644u);
  memcpy(header.uid, "0000000", 8);
  memcpy(header.gid, "0000000", 8);
  snprintf(header.size, sizeof header.size, "%011llo", (unsigned long long) size);
  memcpy(header.mtime, "00000000000", 12);
  memset(header.checksum, ' ', sizeof header.checksum);
  unsigned sum = 0;
  for (size_t at = 0; at < sizeof header; at++)
    sum += ((const uint8_t *) &header)[at];
  snprintf(header.checksum, sizeof header.checksum, "%06o", sum);
  memcpy(to, &header, sizeof header);
}

/* The record `LENGTH path=PATH`, whose length counts its own digits. Returns it. */
static size_t put_record(char *to, const char *path)
{
  size_t length = strlen(" path=\n") + strlen(path);
  size_t whole = length + 1;
  for (size_t digits = 1; (size_t) snprintf(NULL, 0, "%zu", whole) != digits; digits++)
    whole = length + digits + 1;
  return (size_t) snprintf(to, RECORD_MAX, "%zu path=%s\n", whole, path);
}

/* All headers of an entry. Returns their length. */
static size_t put_headers(uint8_t to[HEADERS_MAX], const struct archive_entry *entry)
{
  size_t length = 0;
  memset(to, 0, HEADERS_MAX);
  if (!is_plain(entry->path)) {
    size_t record = put_record((char *) to + BLOCK, entry->path);
    put_header(to, "pax", 3, false, record, 'x');
    length = BLOCK + (size_t) padded(record);
  }
  bool directory = is_directory(entry);
  put_header(to + length, entry->path, strlen(entry->path), directory || entry->executable, entry->size, directory ? '5' : '0');
  return length + BLOCK;
}

/* Below the directory and by real directories alone, whatever lies there. */
static int open_below(int directory, const char *path, uint64_t flags)
{
  struct open_how how = {.flags = flags | O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
                         .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
  return (int) RETRY(syscall(SYS_openat2, directory, *path == '\0' ? "." : path, &how, sizeof how));
}

/* --- Looking at what is there */

struct walk
{
  struct archive *archive;
  char *why;
  size_t why_size;
};

__attribute__((format(printf, 2, 3))) static int refuse(struct walk *walk, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(walk->why, walk->why_size, format, arguments);
  va_end(arguments);
  return -1;
}

static int add(struct walk *walk, const char *parent, const char *name, const struct stat *status)
{
  struct archive *archive = walk->archive;
  bool directory = S_ISDIR(status->st_mode);
  if (archive->count == ARCHIVE_MAX_ENTRIES)
    return refuse(walk, "there are more than %u files and directories", ARCHIVE_MAX_ENTRIES);
  if (strlen(parent) + strlen(name) + directory > ARCHIVE_MAX_PATH)
    return refuse(walk, "a path is longer than %u bytes", ARCHIVE_MAX_PATH);
  char *path;
  if (asprintf(&path, "%s%s%s", parent, name, directory ? "/" : "") < 0)
    return refuse(walk, "no memory");
  archive->files += !directory;
  archive->entries[archive->count++] = (struct archive_entry) {
    .path = path,
    .executable = (status->st_mode & S_IXUSR) != 0,
    .size = directory ? 0 : (uint64_t) status->st_size,
  };
  return 0;
}

/* Adds what is in one directory, whose path ends with a slash or is empty. */
static int look_into(struct walk *walk, const char *path)
{
  int fd = open_below(walk->archive->directory, path, O_DIRECTORY);
  DIR *directory = fd < 0 ? NULL : fdopendir(fd);
  if (directory == NULL) {
    int error = errno;
    if (fd >= 0)
      close(fd);
    return refuse(walk, "a directory cannot be read: %s", strerror(error));
  }
  int result = 0;
  for (struct dirent *entry = readdir(directory); entry != NULL && result == 0; entry = readdir(directory)) {
    struct stat status;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
      result = refuse(walk, "a file cannot be looked at: %s", strerror(errno));
    else if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))
      result = add(walk, path, entry->d_name, &status);
  }
  closedir(directory);
  return result;
}

/* Byte by byte, so that a directory comes before what is in it. */
static int by_path(const void *one, const void *other)
{
  return strcmp(((const struct archive_entry *) one)->path, ((const struct archive_entry *) other)->path);
}

static int look(struct walk *walk, uint64_t max_length)
{
  struct archive *archive = walk->archive;
  if (look_into(walk, "") < 0)
    return -1;
  for (size_t at = 0; at < archive->count; at++)
    if (is_directory(&archive->entries[at]) && look_into(walk, archive->entries[at].path) < 0)
      return -1;
  qsort(archive->entries, archive->count, sizeof *archive->entries, by_path);
  for (size_t at = 0; at < archive->count; at++) {
    struct archive_entry *entry = &archive->entries[at];
    uint8_t headers[HEADERS_MAX];
    entry->offset = archive->length;
    /* Compared before it is added: a file may claim any size. */
    if (entry->size > max_length)
      return refuse(walk, "they are more than the %llu bytes that they may be as an archive", (unsigned long long) max_length);
    archive->length += put_headers(headers, entry) + padded(entry->size);
  }
  if (archive->count > 0)
    archive->length += END_BYTES;
  if (archive->length > max_length)
    return refuse(walk, "they are %llu bytes as an archive, of which they may be %llu", (unsigned long long) archive->length,
                  (unsigned long long) max_length);
  return 0;
}

int archive_open(struct archive *archive, int directory, uint64_t max_length, char *why, size_t why_size)
{
  *archive = (struct archive) {.directory = directory, .open_file = -1};
  struct walk walk = {archive, why, why_size};
  archive->entries = calloc(ARCHIVE_MAX_ENTRIES, sizeof *archive->entries);
  int result = archive->entries == NULL ? refuse(&walk, "no memory") : look(&walk, max_length);
  if (result < 0)
    archive_close(archive);
  return result;
}

/* --- Making its bytes */

/* The last entry that begins at `offset` or before; it need not reach so far. */
static const struct archive_entry *entry_at(const struct archive *archive, uint64_t offset)
{
  size_t low = 0, high = archive->count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (archive->entries[middle].offset <= offset)
      low = middle;
    else
      high = middle;
  }
  return &archive->entries[low];
}

static int open_entry(struct archive *archive, const struct archive_entry *entry)
{
  if (archive->opened == entry)
    return 0;
  close_fd(&archive->open_file);
  archive->opened = NULL;
  struct stat status;
  archive->open_file = open_below(archive->directory, entry->path, 0);
  if (archive->open_file < 0 || fstat(archive->open_file, &status) < 0)
    return -1;
  if (!S_ISREG(status.st_mode) || (uint64_t) status.st_size != entry->size) {
    errno = ESTALE;
    return -1;
  }
  archive->opened = entry;
  return 0;
}

long archive_read(struct archive *archive, uint64_t offset, uint8_t *to, size_t size)
{
  if (offset >= archive->length)
    return 0;
  const struct archive_entry *entry = entry_at(archive, offset);
  uint8_t headers[HEADERS_MAX];
  uint64_t at = offset - entry->offset;
  size_t head = put_headers(headers, entry);
  if (at < head) {
    size_t count = head - (size_t) at < size ? head - (size_t) at : size;
    memcpy(to, headers + at, count);
    return (long) count;
  }
  at -= head;
  if (at < entry->size) {
    size_t count = entry->size - at < size ? (size_t) (entry->size - at) : size;
    if (open_entry(archive, entry) < 0)
      return -1;
    long read = RETRY(pread(archive->open_file, to, count, (off_t) at));
    if (read == 0)
      errno = ESTALE;
    return read > 0 ? read : -1;
  }
  /* What fills up a block, or ends the archive. */
  uint64_t end = entry + 1 < archive->entries + archive->count ? entry[1].offset : archive->length;
  size_t count = end - offset < size ? (size_t) (end - offset) : size;
  memset(to, 0, count);
  return (long) count;
}

void archive_close(struct archive *archive)
{
  for (size_t at = 0; at < archive->count; at++)
    free(archive->entries[at].path);
  free(archive->entries);
  close_fd(&archive->directory);
  close_fd(&archive->open_file);
  *archive = (struct archive) {.directory = -1, .open_file = -1};
}
