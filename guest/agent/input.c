#include "input.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util.h"

/* A link in the image may lead anywhere, but only within the root. */
static int open_directory(int root, const char *path)
{
  struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  return (int) RETRY(syscall(SYS_openat2, root, path, &how, sizeof how));
}

/* Opens a directory by one part after the other, and makes those that are missing. `path` is cut up meanwhile. */
static int make_directory(int root, char *path, uint32_t owner)
{
  int parent = open_directory(root, "/");
  for (char *part = path + 1; parent >= 0 && *part != '\0';) {
    char *end = part + strcspn(part, "/"), was = *end;
    *end = '\0';
    scoped_fd above = parent;
    parent = open_directory(root, path);
    if (parent < 0 && errno == ENOENT && mkdirat(above, part, 0755) == 0 && fchownat(above, part, owner, owner, AT_SYMLINK_NOFOLLOW) == 0)
      parent = open_directory(root, path);
    *end = was;
    part = was == '\0' ? end : end + 1;
  }
  return parent;
}

int input_create(int root, const char *path, uint32_t user, uint32_t group, uint32_t owner_of_directories)
{
  char directory[INPUT_MAX_PATH + 1];
  const char *name = strrchr(path, '/');
  if (*path != '/' || strlen(path) > INPUT_MAX_PATH || name[1] == '\0') {
    errno = EINVAL;
    return -1;
  }
  memcpy(directory, path, (size_t) (name - path) + 1);
  directory[name - path + (name == path)] = '\0';
  scoped_fd parent = make_directory(root, directory, owner_of_directories);
  if (parent < 0 || (unlinkat(parent, name + 1, 0) < 0 && errno != ENOENT))
    return -1;
  scoped_fd file = openat(parent, name + 1, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (file < 0 || fchown(file, user, group) < 0 || fchmod(file, 0644) < 0)
    return -1;
  int result = file;
  file = -1;
  return result;
}
