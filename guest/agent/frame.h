/* The frames between daemon and agent: docs/reference/guest-frames.md. No input or output here. */
#ifndef COCORE_FRAME_H
#define COCORE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define FRAME_VERSION 2
#define FRAME_MAX_DATA 65536u
/* Type and payload of any frame but TASK. */
#define FRAME_MAX_BODY 65552u
#define FRAME_MAX_TASK (8u * 1024 * 1024)
#define FRAME_NONCE_BYTES 16
/* The path of a FILE. */
#define FRAME_MAX_PATH 1024u
/* Offsets and lengths of streams are below 2^53, so that JavaScript counts them exactly. */
#define FRAME_MAX_OFFSET ((UINT64_C(1) << 53) - 1)

enum host_frame_type
{
  HOST_HELLO = 0x01,
  HOST_TASK = 0x02,
  HOST_STDIN = 0x03,
  HOST_STDIN_END = 0x04,
  HOST_SIGNAL = 0x05,
  HOST_SEED = 0x06,
  HOST_PING = 0x07,
  HOST_ACK = 0x08,
  HOST_POWEROFF = 0x09,
  HOST_FILE = 0x0a,
  HOST_FILE_DATA = 0x0b,
};

enum guest_frame_type
{
  GUEST_HELLO = 0x81,
  GUEST_STARTED = 0x82,
  GUEST_STDOUT = 0x83,
  GUEST_STDERR = 0x84,
  GUEST_EXIT = 0x85,
  GUEST_PONG = 0x86,
  GUEST_STDIN_ACK = 0x87,
  GUEST_FAULT = 0x88,
  GUEST_RESULT = 0x89,
  GUEST_ARTIFACTS = 0x8a,
};

enum frame_status
{
  FRAME_OK,
  /* The bytes end before the frame does. */
  FRAME_MORE,
  FRAME_TOO_LONG,
  FRAME_EMPTY,
  FRAME_UNKNOWN_TYPE,
  FRAME_BAD_PAYLOAD,
};

/* A frame of the host. Which fields are set depends on the type; `data` points into the bytes read. */
struct host_frame
{
  enum host_frame_type type;
  /* TASK: the configuration. STDIN and FILE_DATA: the bytes. FILE: the path. SEED: the entropy. HELLO: the nonce. */
  const uint8_t *data;
  size_t length;
  /* STDIN: offset. STDIN_END: length. SEED: nanoseconds since the epoch. PING: token. ACK: offset. SIGNAL: number. HELLO: version.
     TASK: how many bytes its artifacts may be. FILE: how many bytes it has. */
  uint64_t number;
  /* FILE: its owner. */
  uint32_t user;
  uint32_t group;
  /* ACK: 1 stdout, 2 stderr, 3 result, 4 artifacts. */
  uint8_t stream;
};

/*
 * Reads the frame at the start of `bytes`. On FRAME_OK, `*used` is its whole length. On FRAME_MORE, `*used` is the
 * whole length that the frame will have, or 0 while that is not known. Any other status is final: the host broke the contract.
 */
enum frame_status frame_read(const uint8_t *bytes, size_t length, struct host_frame *frame, size_t *used);

/* The longest frame that the writers below make, without data: FAULT with its message. */
#define FRAME_MAX_SMALL 1100u

/* Each writes one frame to `out` and returns its length. */
size_t frame_write_hello(uint8_t *out, const uint8_t nonce[FRAME_NONCE_BYTES], const char *version);
/* STARTED, PONG and STDIN_ACK: one 64-bit number. */
size_t frame_write_number(uint8_t *out, enum guest_frame_type type, uint64_t number);
/* STDOUT, STDERR, RESULT and ARTIFACTS: the header only, which `length` bytes of data (1 to FRAME_MAX_DATA) must follow. */
#define FRAME_DATA_HEADER 13u
size_t frame_write_data_header(uint8_t *out, enum guest_frame_type type, uint64_t offset, size_t length);
size_t frame_write_fault(uint8_t *out, uint8_t stage, uint32_t error, const char *message);

struct exit_report
{
  /* 0 exited, 1 signaled. */
  uint8_t kind;
  uint8_t oom;
  /* The exit code, or the signal's number. */
  uint32_t code;
  uint64_t stdout_length;
  uint64_t stderr_length;
  uint64_t result_length;
  uint64_t artifacts_length;
  /* Regular files among the artifacts. */
  uint32_t artifact_files;
  uint64_t cpu_us;
  uint64_t memory_peak_bytes;
  /* 0 nothing, 1 the result, 2 the artifacts; and why, at most 1,024 bytes. */
  uint8_t refused;
  const char *message;
};
size_t frame_write_exit(uint8_t *out, const struct exit_report *report);

#endif
