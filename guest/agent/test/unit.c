/* Unit tests of the frames, the ring and the options of the kernel's command line. `unit GOLDEN` also reads the golden frames of the host. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drives.h"
#include "frame.h"
#include "ring.h"
#include "util.h"

static int passed;
static int failed;

static void check(int holds, const char *what)
{
  if (holds) {
    passed++;
    return;
  }
  failed++;
  fprintf(stderr, "not so: %s\n", what);
}

static char *slurp(const char *directory, const char *name, size_t *length)
{
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  char *bytes = calloc(1, 1 << 20);
  *length = fread(bytes, 1, (1 << 20) - 1, file);
  fclose(file);
  return bytes;
}

/* The value of "KEY": in one entry of the index, as text, up to its closing quote. */
static int value_of(const char *entry, const char *end, const char *key, char *value, size_t size)
{
  char pattern[64];
  snprintf(pattern, sizeof pattern, "\"%s\": \"", key);
  const char *at = strstr(entry, pattern);
  if (at == NULL || at >= end)
    return 0;
  at += strlen(pattern);
  snprintf(value, size, "%.*s", (int) strcspn(at, "\""), at);
  return 1;
}

static enum frame_status status_named(const char *name)
{
  if (strcmp(name, "too_long") == 0)
    return FRAME_TOO_LONG;
  if (strcmp(name, "empty") == 0)
    return FRAME_EMPTY;
  return strcmp(name, "unknown_type") == 0 ? FRAME_UNKNOWN_TYPE : FRAME_BAD_PAYLOAD;
}

/* A golden frame of the host is read as its index entry says. */
static void check_host_frame(const char *directory, const char *file, const char *entry, const char *end)
{
  static const char *const number_keys[] = {"version", "offset", "length", "signal", "epochNs", "token", "artifactsLimit", "size"};
  static const char *const data_keys[] = {"config", "data", "entropy", "nonce"};
  size_t length, used;
  uint8_t *bytes = (uint8_t *) slurp(directory, file, &length);
  struct host_frame frame;
  char value[1024];
  enum frame_status status = frame_read(bytes, length, &frame, &used);
  if (value_of(entry, end, "error", value, sizeof value)) {
    check(status == status_named(value), file);
    free(bytes);
    return;
  }
  check(status == FRAME_OK && used == length, file);
  for (size_t at = 0; status == FRAME_OK && at < sizeof number_keys / sizeof *number_keys; at++)
    if (value_of(entry, end, number_keys[at], value, sizeof value))
      check(frame.number == strtoull(value, NULL, 10), file);
  for (size_t at = 0; status == FRAME_OK && at < sizeof data_keys / sizeof *data_keys; at++)
    if (value_of(entry, end, data_keys[at], value, sizeof value)) {
      char hex[1024] = "";
      for (size_t byte = 0; byte < frame.length; byte++)
        sprintf(hex + 2 * byte, "%02x", frame.data[byte]);
      check(strcmp(hex, value) == 0, file);
    }
  /* Every shorter piece is only the beginning of a frame, never another one. */
  for (size_t shorter = 0; shorter < length; shorter++) {
    struct host_frame other;
    check(frame_read(bytes, shorter, &other, &used) == FRAME_MORE, "a piece of a frame is no frame");
  }
  free(bytes);
}

/* A frame that we write is, byte for byte, the golden one. */
static void check_guest_frame(const char *directory, const char *file, const uint8_t *written, size_t length)
{
  size_t golden_length;
  char *golden = slurp(directory, file, &golden_length);
  check(golden_length == length && memcmp(golden, written, length) == 0, file);
  free(golden);
}

static void golden(const char *directory)
{
  const uint64_t big = (1ULL << 40) + 7;
  size_t length;
  char *index = slurp(directory, "index.json", &length);
  int seen = 0;
  for (char *entry = strstr(index, "\"file\": \""); entry != NULL; entry = strstr(entry + 1, "\"file\": \"")) {
    char *end = strstr(entry + 1, "\"file\": \"");
    char file[256], direction[16];
    value_of(entry, index + length, "file", file, sizeof file);
    value_of(entry, index + length, "direction", direction, sizeof direction);
    if (strcmp(direction, "host") != 0)
      continue;
    check_host_frame(directory, file, entry, end == NULL ? index + length : end);
    seen++;
  }
  check(seen >= 20, "the index names the frames of the host");
  free(index);

  uint8_t out[FRAME_MAX_SMALL];
  uint8_t nonce[FRAME_NONCE_BYTES];
  for (size_t at = 0; at < sizeof nonce; at++)
    nonce[at] = (uint8_t) at;
  check_guest_frame(directory, "guest-hello.bin", out, frame_write_hello(out, nonce, "0.1.0"));
  check_guest_frame(directory, "guest-started.bin", out, frame_write_number(out, GUEST_STARTED, big));
  check_guest_frame(directory, "guest-pong.bin", out, frame_write_number(out, GUEST_PONG, 1));
  check_guest_frame(directory, "guest-stdin-ack.bin", out, frame_write_number(out, GUEST_STDIN_ACK, big));
  check_guest_frame(directory, "guest-fault.bin", out, frame_write_fault(out, 3, 2, "not found"));
  size_t header = frame_write_data_header(out, GUEST_STDOUT, big, 1);
  out[header] = '\n';
  check_guest_frame(directory, "guest-stdout.bin", out, header + 1);
  struct exit_report report = {1, 1, 9, 3, big, 7, 2048, 1, 5, 6, 0, ""};
  check_guest_frame(directory, "guest-exit.bin", out, frame_write_exit(out, &report));
  struct exit_report refused = {.refused = 2, .message = "too many"};
  check_guest_frame(directory, "guest-exit-refused.bin", out, frame_write_exit(out, &refused));
  header = frame_write_data_header(out, GUEST_RESULT, 0, 2);
  memcpy(out + header, "42", 2);
  check_guest_frame(directory, "guest-result.bin", out, header + 2);
  header = frame_write_data_header(out, GUEST_ARTIFACTS, big, 1);
  out[header] = 0;
  check_guest_frame(directory, "guest-artifacts.bin", out, header + 1);
}

/* Bytes go round the ring many times, in uneven steps, and come out as they went in. */
static void ring(void)
{
  struct ring *ring = calloc(1, sizeof *ring);
  uint8_t *at, out[5000];
  uint64_t written = 0, read = 0, offset;
  srand(1);
  while (read < 4ULL * RING_BYTES) {
    size_t space = ring_space(ring, &at);
    size_t length = (size_t) rand() % 7001;
    if (length > space)
      length = space;
    for (size_t byte = 0; byte < length; byte++)
      at[byte] = (uint8_t) ((written + byte) * 31 >> 3);
    ring_filled(ring, length);
    written += length;
    length = ring_take(ring, out, sizeof out, &offset);
    check(offset == read, "the ring counts offsets");
    int same = 1;
    for (size_t byte = 0; byte < length; byte++)
      same &= out[byte] == (uint8_t) ((read + byte) * 31 >> 3);
    check(same, "the ring keeps bytes");
    read += length;
    if (rand() % 2)
      check(progress_acknowledge(&ring->at, read), "the ring takes an acknowledgement");
  }
  check(!progress_acknowledge(&ring->at, ring->at.sent + 1), "what was not sent cannot be acknowledged");
  progress_acknowledge(&ring->at, ring->at.sent);
  check(!progress_acknowledge(&ring->at, ring->at.acked - 1), "an acknowledgement is not taken back");

  size_t total = 0, space;
  while ((space = ring_space(ring, &at)) > 0) {
    ring_filled(ring, space);
    total += space;
  }
  check(ring->at.end - ring->at.acked == RING_BYTES && total > 0, "a full ring holds its size and no more");
  uint64_t acked = ring->at.acked;
  ring_take(ring, out, 100, &offset);
  progress_rewind(&ring->at);
  ring_take(ring, out, 100, &offset);
  check(offset == acked, "after a rewind, what was not acknowledged is sent again");
  progress_rewind(&ring->at);
  check(!progress_acknowledge(&ring->at, acked + 101), "what was sent on no connection cannot be acknowledged on the next");
  check(progress_acknowledge(&ring->at, acked + 60), "what an earlier connection brought can be acknowledged on the next");
  ring_take(ring, out, 100, &offset);
  check(offset == acked + 60, "what is acknowledged is not sent again");
  free(ring);
}

static void drives(void)
{
  char path[32] = "";
  const char *line = "console=ttyS0 xcocore.drives=no cocore.drives=rootfs,code,scratch quiet\n";
  check(drive_by_order(line, "rootfs", path, sizeof path) == 0 && strcmp(path, "/dev/vda") == 0, "the first drive is vda");
  check(drive_by_order(line, "scratch", path, sizeof path) == 0 && strcmp(path, "/dev/vdc") == 0, "the third drive is vdc");
  check(drive_by_order(line, "cod", path, sizeof path) == 1, "a part of a name is no name");
  check(drive_by_order(line, "quiet", path, sizeof path) == 1, "the order ends at a space");
  check(drive_by_order("cocore.drives=a,,scratch\n", "scratch", path, sizeof path) == 0 && strcmp(path, "/dev/vdc") == 0,
        "a drive without a name has its letter");
  check(drive_by_order("cocore.drives=", "", path, sizeof path) == 1, "nothing is no name");
  check(drive_by_order("console=ttyS0 quiet\n", "rootfs", path, sizeof path) == -1, "without an order there is none");
}

static void options(void)
{
  const char *line = "quiet cocore.drives=rootfs,code xcocore.vsock=1 cocore.vsock cocore.vsock=1024 panic=-1\n";
  char value[8] = "";
  check(option_of(line, "cocore.vsock", value, sizeof value) && strcmp(value, "1024") == 0, "an option is found");
  check(option_of(line, "panic", value, sizeof value) && strcmp(value, "-1") == 0, "the last option ends at the line");
  check(!option_of(line, "quiet", value, sizeof value), "a word without a value is no option");
  check(!option_of(line, "cocore.drives", value, sizeof value), "a value that is too long is not taken");
}

int main(int count, char **arguments)
{
  if (count > 1)
    golden(arguments[1]);
  ring();
  drives();
  options();
  printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
