#include "control.h"

#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "util.h"

#define HEADER_BYTES 8
#define WAITING_MAX_BYTES (64 * 1024)
/* What a guest makes as many of as it likes may not take the last of the room. */
#define RESERVE_BYTES (16 * 1024)

static uint8_t waiting[WAITING_MAX_BYTES];
static size_t waiting_length;

static uint8_t heard[HEADER_BYTES + FRAME_MAX_BYTES];
static size_t heard_length;

bool control_say(uint8_t type, uint32_t id, const void *bytes, size_t length)
{
  size_t room = sizeof waiting - waiting_length - (type == 'd' ? RESERVE_BYTES : 0);
  if (waiting_length + RESERVE_BYTES > sizeof waiting && type == 'd')
    return false;
  if (length > FRAME_MAX_BYTES || room < HEADER_BYTES + length)
    return false;
  uint8_t *at = waiting + waiting_length;
  uint16_t length_le = htole16((uint16_t) length);
  uint32_t id_le = htole32(id);
  at[0] = type;
  at[1] = 0;
  memcpy(at + 2, &length_le, sizeof length_le);
  memcpy(at + 4, &id_le, sizeof id_le);
  if (length > 0)
    memcpy(at + HEADER_BYTES, bytes, length);
  waiting_length += HEADER_BYTES + length;
  return true;
}

void control_flush(void)
{
  while (waiting_length > 0) {
    long count = RETRY(send(CONTROL_FD, waiting, waiting_length, MSG_NOSIGNAL | MSG_DONTWAIT));
    if (count < 0) {
      if (errno == EAGAIN)
        return;
      _exit(0);
    }
    waiting_length -= (size_t) count;
    memmove(waiting, waiting + count, waiting_length);
  }
}

void control_read(void (*obey)(const struct frame *frame))
{
  for (;;) {
    long count = RETRY(recv(CONTROL_FD, heard + heard_length, sizeof heard - heard_length, MSG_DONTWAIT));
    if (count < 0 && errno == EAGAIN)
      return;
    if (count <= 0)
      _exit(0);
    heard_length += (size_t) count;
    size_t at = 0;
    while (heard_length - at >= HEADER_BYTES) {
      uint16_t length;
      uint32_t id;
      memcpy(&length, heard + at + 2, sizeof length);
      memcpy(&id, heard + at + 4, sizeof id);
      length = le16toh(length);
      if (length > FRAME_MAX_BYTES)
        _exit(1);
      if (heard_length - at < HEADER_BYTES + (size_t) length)
        break;
      struct frame frame = {.type = heard[at], .id = le32toh(id), .length = length, .bytes = heard + at + HEADER_BYTES};
      obey(&frame);
      at += HEADER_BYTES + length;
    }
    heard_length -= at;
    memmove(heard, heard + at, heard_length);
  }
}

void give_up(const char *format, ...)
{
  int error = errno;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0 || length >= (int) sizeof text)
    length = (int) sizeof text - 1;
  if (error != 0)
    length += snprintf(text + length, sizeof text - (size_t) length, ": %s", strerror(error));
  if (length >= (int) sizeof text)
    length = (int) sizeof text - 1;
  control_say('f', 0, text, (size_t) length);
  control_flush();
  _exit(1);
}
