#include "frame.h"

#include <stdbool.h>
#include <string.h>

static uint64_t get(const uint8_t *from, size_t bytes)
{
  uint64_t value = 0;
  for (size_t at = bytes; at > 0; at--)
    value = value << 8 | from[at - 1];
  return value;
}

static uint8_t *put(uint8_t *to, uint64_t value, size_t bytes)
{
  for (size_t at = 0; at < bytes; at++)
    to[at] = (uint8_t) (value >> (8 * at));
  return to + bytes;
}

static uint8_t *put_bytes(uint8_t *to, const void *from, size_t length)
{
  memcpy(to, from, length);
  return to + length;
}

/* What each type's payload must be: a fixed part, then between `min` and `max` bytes of data. */
struct layout
{
  size_t fixed;
  size_t min;
  size_t max;
};

static bool layout_of(uint8_t type, struct layout *layout)
{
  switch (type) {
  case HOST_HELLO: *layout = (struct layout) {2, FRAME_NONCE_BYTES, FRAME_NONCE_BYTES}; return true;
  case HOST_TASK: *layout = (struct layout) {8, 1, FRAME_MAX_TASK - 9}; return true;
  case HOST_STDIN: *layout = (struct layout) {8, 1, FRAME_MAX_DATA}; return true;
  case HOST_STDIN_END: *layout = (struct layout) {8, 0, 0}; return true;
  case HOST_SIGNAL: *layout = (struct layout) {4, 0, 0}; return true;
  case HOST_SEED: *layout = (struct layout) {8, 32, 256}; return true;
  case HOST_PING: *layout = (struct layout) {8, 0, 0}; return true;
  case HOST_ACK: *layout = (struct layout) {9, 0, 0}; return true;
  case HOST_FILE: *layout = (struct layout) {16, 2, FRAME_MAX_PATH}; return true;
  case HOST_FILE_DATA: *layout = (struct layout) {0, 1, FRAME_MAX_DATA}; return true;
  case HOST_POWEROFF: *layout = (struct layout) {0, 0, 0}; return true;
  default: return false;
  }
}

static bool values_are_allowed(const struct host_frame *frame)
{
  switch (frame->type) {
  case HOST_SIGNAL: return frame->number >= 1 && frame->number <= 64;
  case HOST_ACK: return frame->stream >= 1 && frame->stream <= 4 && frame->number <= FRAME_MAX_OFFSET;
  /* A path is absolute, and text without NUL. */
  case HOST_FILE: return frame->data[0] == '/' && memchr(frame->data, 0, frame->length) == NULL && frame->number <= FRAME_MAX_OFFSET;
  case HOST_TASK:
  case HOST_STDIN:
  case HOST_STDIN_END: return frame->number <= FRAME_MAX_OFFSET;
  default: return true;
  }
}

enum frame_status frame_read(const uint8_t *bytes, size_t length, struct host_frame *frame, size_t *used)
{
  struct layout layout;
  *used = 0;
  if (length < 5)
    return FRAME_MORE;
  size_t body = (size_t) get(bytes, 4);
  uint8_t type = bytes[4];
  if (body == 0)
    return FRAME_EMPTY;
  if (body > (type == HOST_TASK ? FRAME_MAX_TASK : FRAME_MAX_BODY))
    return FRAME_TOO_LONG;
  *used = 4 + body;
  if (length < 4 + body)
    return FRAME_MORE;
  if (!layout_of(type, &layout))
    return FRAME_UNKNOWN_TYPE;
  size_t payload = body - 1;
  if (payload < layout.fixed + layout.min || payload > layout.fixed + layout.max)
    return FRAME_BAD_PAYLOAD;

  const uint8_t *at = bytes + 5;
  *frame = (struct host_frame) {.type = (enum host_frame_type) type,
                                .data = at + layout.fixed,
                                .length = payload - layout.fixed};
  if (type == HOST_ACK) {
    frame->stream = at[0];
    frame->number = get(at + 1, 8);
  } else if (type == HOST_FILE) {
    frame->user = (uint32_t) get(at, 4);
    frame->group = (uint32_t) get(at + 4, 4);
    frame->number = get(at + 8, 8);
  } else {
    frame->number = get(at, layout.fixed);
  }
  return values_are_allowed(frame) ? FRAME_OK : FRAME_BAD_PAYLOAD;
}

static uint8_t *put_header(uint8_t *out, enum guest_frame_type type, size_t payload)
{
  return put(put(out, payload + 1, 4), type, 1);
}

size_t frame_write_hello(uint8_t *out, const uint8_t nonce[FRAME_NONCE_BYTES], const char *version)
{
  size_t length = strlen(version);
  uint8_t *at = put_header(out, GUEST_HELLO, 2 + FRAME_NONCE_BYTES + length);
  at = put(at, FRAME_VERSION, 2);
  at = put_bytes(at, nonce, FRAME_NONCE_BYTES);
  return (size_t) (put_bytes(at, version, length) - out);
}

size_t frame_write_number(uint8_t *out, enum guest_frame_type type, uint64_t number)
{
  return (size_t) (put(put_header(out, type, 8), number, 8) - out);
}

size_t frame_write_data_header(uint8_t *out, enum guest_frame_type type, uint64_t offset, size_t length)
{
  return (size_t) (put(put_header(out, type, 8 + length), offset, 8) - out);
}

size_t frame_write_fault(uint8_t *out, uint8_t stage, uint32_t error, const char *message)
{
  size_t length = strlen(message);
  uint8_t *at = put(put(put_header(out, GUEST_FAULT, 5 + length), stage, 1), error, 4);
  return (size_t) (put_bytes(at, message, length) - out);
}

size_t frame_write_exit(uint8_t *out, const struct exit_report *report)
{
  size_t length = strlen(report->message);
  uint8_t *at = put_header(out, GUEST_EXIT, 59 + length);
  at = put(put(put(at, report->kind, 1), report->oom, 1), report->code, 4);
  at = put(put(at, report->stdout_length, 8), report->stderr_length, 8);
  at = put(put(at, report->result_length, 8), report->artifacts_length, 8);
  at = put(put(put(at, report->artifact_files, 4), report->cpu_us, 8), report->memory_peak_bytes, 8);
  return (size_t) (put_bytes(put(at, report->refused, 1), report->message, length) - out);
}
