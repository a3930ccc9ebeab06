#include "drives.h"

#include <stdio.h>
#include <string.h>

#define PARAMETER "cocore.drives="

/* The value of the parameter, up to the next space; NULL when the line does not have it. */
static const char *order_on(const char *line)
{
  const char *at = strstr(line, PARAMETER);
  while (at != NULL && at != line && at[-1] != ' ')
    at = strstr(at + 1, PARAMETER);
  return at == NULL ? NULL : at + strlen(PARAMETER);
}

int drive_by_order(const char *command_line, const char *name, char *path, size_t size)
{
  const char *at = order_on(command_line);
  if (at == NULL)
    return -1;
  for (char letter = 'a'; letter <= 'z'; letter++) {
    size_t length = strcspn(at, ", \n");
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
