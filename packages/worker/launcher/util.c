#include "util.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LINE_MAX_BYTES 1024

static void say_line(char *line, int length)
{
  if (length >= LINE_MAX_BYTES)
    length = LINE_MAX_BYTES - 1;
  for (int at = 0; at < length; at += 1)
    if (line[at] == '\n')
      line[at] = ' ';
  line[length] = '\n';
  /* A line is short enough to be taken whole; a daemon that is gone needs none. */
  (void) !RETRY(write(CONTROL_FD, line, (size_t) length + 1));
}

void say(const char *format, ...)
{
  char line[LINE_MAX_BYTES + 1];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, LINE_MAX_BYTES, format, arguments);
  va_end(arguments);
  say_line(line, length);
}

void fault(const char *stage, const char *format, ...)
{
  int error = errno;
  char line[LINE_MAX_BYTES + 1];
  va_list arguments;
  int length = snprintf(line, sizeof line, "fault %s %d ", stage, error);
  va_start(arguments, format);
  length += vsnprintf(line + length, sizeof line - (size_t) length, format, arguments);
  va_end(arguments);
  if (error != 0 && length < LINE_MAX_BYTES)
    length += snprintf(line + length, sizeof line - (size_t) length, ": %s", strerror(error));
  say_line(line, length);
  /* What the daemon still writes is taken: an end with its bytes unread would reset the socket, and the line with it. It ends its side at ours. */
  shutdown(CONTROL_FD, SHUT_WR);
  while (RETRY(read(CONTROL_FD, line, sizeof line)) > 0)
    ;
  _exit(1);
}

int write_file(const char *path, const char *text)
{
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  size_t length = strlen(text);
  bool whole = RETRY(write(fd, text, length)) == (long) length;
  int error = errno;
  close(fd);
  errno = error;
  return whole ? 0 : -1;
}

long read_tail(const char *path, char *text, size_t size)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  off_t end = lseek(fd, 0, SEEK_END);
  off_t from = end > (off_t) size - 1 ? end - (off_t) size + 1 : 0;
  long count = RETRY(pread(fd, text, size - 1, from));
  close(fd);
  text[count < 0 ? 0 : count] = '\0';
  return count;
}

const char *setting(const char *name)
{
  const char *value = getenv(name);
  if (value == NULL || *value == '\0') {
    errno = 0;
    fault(SETUP, "the launcher was not told its %s", name);
  }
  return value;
}
