#include "play.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "machine.h"
#include "util.h"

static bool reads = true;
static bool beats = true;
/* Frames of the host by type that no `expect` has taken yet. */
static unsigned seen[16];
static uint8_t nonce[FRAME_NONCE_BYTES];
static uint64_t ping;
static bool pong_due;
static uint64_t sent[3];

static uint8_t input[FRAME_MAX_TASK + 4096];
static size_t held;

static void take(const struct host_frame *frame)
{
  seen[frame->type & 15]++;
  if (frame->type == HOST_HELLO)
    memcpy(nonce, frame->data, sizeof nonce);
  if (frame->type == HOST_PING) {
    ping = frame->number;
    pong_due = true;
  }
}

/* What is there now. */
static void read_host(void)
{
  long count = RETRY(read(host_stream(), input + held, sizeof input - held));
  if (count < 0 && errno == EAGAIN)
    return;
  if (count <= 0) {
    held = 0;
    drop_stream();
    return;
  }
  held += (size_t) count;
  size_t at = 0;
  for (;;) {
    struct host_frame frame;
    size_t used;
    if (frame_read(input + at, held - at, &frame, &used) != FRAME_OK)
      break;
    take(&frame);
    at += used;
  }
  memmove(input, input + at, held - at);
  held -= at;
}

/* Until the stream can be read, where it is read at all, or written, where that is wanted. */
static void await_host(bool writing, int timeout_ms)
{
  struct pollfd fd = {.fd = host_stream(), .events = (short) ((reads ? POLLIN : 0) | (writing ? POLLOUT : 0))};
  if (poll(&fd, 1, timeout_ms) > 0 && reads && (fd.revents & (POLLIN | POLLHUP)) != 0)
    read_host();
}

static void put(const uint8_t *bytes, size_t length)
{
  for (size_t at = 0; at < length;) {
    long count = RETRY(write(host_stream(), bytes + at, length - at));
    if (count > 0)
      at += (size_t) count;
    else if (count < 0 && errno == EAGAIN)
      await_host(true, -1);
    else
      drop_stream();
  }
}

static void put_number(enum guest_frame_type type, uint64_t number)
{
  uint8_t frame[FRAME_MAX_SMALL];
  put(frame, frame_write_number(frame, type, number));
}

/* Between two frames only. */
static void beat(void)
{
  if (!pong_due || !beats)
    return;
  pong_due = false;
  put_number(GUEST_PONG, ping);
}

_Noreturn void serve(void)
{
  for (;;) {
    beat();
    await_host(false, 1000);
  }
}

static void expect(unsigned type)
{
  while (seen[type & 15] == 0) {
    beat();
    await_host(false, 1000);
  }
  seen[type & 15]--;
}

static size_t from_hex(const char *hex, uint8_t *bytes)
{
  size_t length = 0;
  unsigned byte;
  while (sscanf(hex + 2 * length, "%2x", &byte) == 1)
    bytes[length++] = (uint8_t) byte;
  return length;
}

static void hello(unsigned version, const char *more)
{
  static uint8_t frame[FRAME_MAX_SMALL + SCRIPT_BYTES / 2];
  expect(HOST_HELLO);
  size_t length = frame_write_hello(frame, nonce, "hostile");
  frame[5] = (uint8_t) version;
  put(frame, length + from_hex(more, frame + length));
}

static void data(unsigned stream, uint64_t offset, size_t length)
{
  static uint8_t frame[FRAME_DATA_HEADER + 2 * FRAME_MAX_DATA];
  memset(frame, 'x', sizeof frame);
  put(frame, frame_write_data_header(frame, stream == 1 ? GUEST_STDOUT : GUEST_STDERR, offset, length) + length);
}

/* `count` frames, or for ever where it is 0. Small ones go out many at a time. */
static void output(unsigned stream, size_t length, uint64_t count)
{
  static uint8_t frames[64 * (FRAME_DATA_HEADER + 256)];
  if (length > 256) {
    for (uint64_t number = 0; count == 0 || number < count; number++, sent[stream] += length) {
      beat();
      data(stream, sent[stream], length);
    }
    return;
  }
  memset(frames, 'x', sizeof frames);
  for (uint64_t number = 0; count == 0 || number < count;) {
    size_t filled = 0;
    for (int frame = 0; frame < 64 && (count == 0 || number < count); frame++, number++, sent[stream] += length) {
      enum guest_frame_type type = stream == 1 ? GUEST_STDOUT : GUEST_STDERR;
      filled += frame_write_data_header(frames + filled, type, sent[stream], length) + length;
    }
    beat();
    put(frames, filled);
  }
}

/* The same bytes again and again, as many as fit into a write. */
static _Noreturn void repeat(const uint8_t *bytes, size_t length)
{
  static uint8_t many[65536];
  size_t filled = 0;
  for (; filled + length <= sizeof many; filled += length)
    memcpy(many + filled, bytes, length);
  for (;;) {
    beat();
    put(many, filled);
  }
}

static _Noreturn void drip(const uint8_t *bytes, size_t length)
{
  for (;;) {
    beat();
    for (size_t at = 0; at < length; at++)
      put(bytes + at, 1);
  }
}

/* What the host says, back to it. */
static _Noreturn void echo(void)
{
  uint8_t bytes[4096];
  for (;;) {
    struct pollfd fd = {.fd = host_stream(), .events = POLLIN};
    poll(&fd, 1, -1);
    long count = RETRY(read(host_stream(), bytes, sizeof bytes));
    reads = false;
    if (count > 0)
      put(bytes, (size_t) count);
    else if (count == 0 || errno != EAGAIN)
      drop_stream();
  }
}

/* Answers that nobody can have asked for, but whose tokens are right: the host counts from 1. */
static _Noreturn void guess(long ms)
{
  for (uint64_t token = 1;; token++) {
    sleep_ms(ms);
    put_number(GUEST_PONG, token);
  }
}

static _Noreturn void print_for_ever(void)
{
  char line[256];
  memset(line, '\x1b', sizeof line);
  line[sizeof line - 1] = '\n';
  for (;;) {
    if (write(STDOUT_FILENO, line, sizeof line) < 0)
      sleep_ms(1);
    beat();
    await_host(false, 0);
  }
}

void play(char *step)
{
  static uint8_t bytes[SCRIPT_BYTES / 2];
  const char *verb = strsep(&step, " ");
  const char *rest = step == NULL ? "" : step;
  unsigned long long one = 0, two = 0, three = 0;
  sscanf(rest, "%llu %llu %llu", &one, &two, &three);
#define IS(name) (strcmp(verb, name) == 0)
  if (IS("hello"))
    hello((unsigned) one, rest + strcspn(rest, " ") + (strchr(rest, ' ') != NULL));
  else if (IS("expect"))
    expect((unsigned) one);
  else if (IS("send"))
    put(bytes, from_hex(rest, bytes));
  else if (IS("data"))
    data((unsigned) one, two, (size_t) three);
  else if (IS("output"))
    output((unsigned) one, (size_t) two, three);
  else if (IS("repeat"))
    repeat(bytes, from_hex(rest, bytes));
  else if (IS("drip"))
    drip(bytes, from_hex(rest, bytes));
  else if (IS("deaf"))
    reads = false;
  else if (IS("dumb"))
    beats = false;
  else if (IS("guess"))
    guess((long) one);
  else if (IS("echo"))
    echo();
  else if (IS("print"))
    print_for_ever();
  else if (IS("sleep"))
    sleep_ms((long) one);
  else if (IS("close"))
    close_port();
  else if (IS(UNOPENED))
    fprintf(stderr, "hostile: unopened\n");
  else if (IS("poweroff"))
    power_off();
  else
    fprintf(stderr, "hostile: no step %s\n", verb);
#undef IS
}
