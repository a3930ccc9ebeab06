#include "drives.h"

#include <stdio.h>
#include <string.h>

#include "util.h"

int drive_by_order(const char *command_line, const char *name, char *path, size_t size)
{
  char order[256];
  if (!option_of(command_line, "cocore.drives", order, sizeof order))
    return -1;
  const char *at = order;
  for (char letter = 'a'; letter <= 'z'; letter++) {
    size_t length = strcspn(at, ",");
    if (length == strlen(name) && length > 0 && strncmp(at, name, length) == 0) {
      snprintf(path, size, "/dev/vd%c", letter);
      return 0;
    }
    at += length;
    if (*at != ',')
      break;
    at++;
  }
  return 1;
}
