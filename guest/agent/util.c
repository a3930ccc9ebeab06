#include "util.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int fail(struct fault *fault, enum stage stage, int error, const char *format, ...)
{
  va_list arguments;
  fault->stage = stage;
  fault->error = error;
  va_start(arguments, format);
  int length = vsnprintf(fault->message, sizeof fault->message, format, arguments);
  va_end(arguments);
  if (error != 0 && length >= 0 && (size_t) length < sizeof fault->message)
    snprintf(fault->message + length, sizeof fault->message - (size_t) length, ": %s",
             strerror(error));
  return -1;
}

int write_file(const char *path, const char *text)
{
  scoped_fd fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  size_t length = strlen(text);
  return RETRY(write(fd, text, length)) == (long) length ? 0 : -1;
}

bool option_of(const char *line, const char *name, char *value, size_t size)
{
  size_t length = strlen(name);
  while (*line != '\0') {
    size_t word = strcspn(line, " \n");
    if (word > length && strncmp(line, name, length) == 0 && line[length] == '=') {
      size_t rest = word - length - 1;
      if (rest >= size)
        return false;
      memcpy(value, line + length + 1, rest);
      value[rest] = '\0';
      return true;
    }
    line += word;
    line += strspn(line, " \n");
  }
  return false;
}

long read_file(const char *path, char *text, size_t size)
{
  scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  size_t total = 0;
  while (total < size - 1) {
    long count = RETRY(read(fd, text + total, size - 1 - total));
    if (count < 0)
      return -1;
    if (count == 0)
      break;
    total += (size_t) count;
  }
  text[total] = '\0';
  return (long) total;
}
