/* The frame parser under libFuzzer: no input may make it read past its bytes, loop, or accept what it cannot describe. */
#include <stdlib.h>
#include <string.h>

#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  /* A copy of exactly this size, so that the sanitizer sees a read past its end. */
  uint8_t *bytes = malloc(size == 0 ? 1 : size);
  memcpy(bytes, data, size);
  for (size_t at = 0; at < size;) {
    struct host_frame frame;
    size_t used;
    if (frame_read(bytes + at, size - at, &frame, &used) != FRAME_OK)
      break;
    if (used < 5 || used > size - at || frame.data + frame.length > bytes + at + used)
      abort();
    volatile uint8_t sum = 0;
    for (size_t byte = 0; byte < frame.length; byte++)
      sum = (uint8_t) (sum + frame.data[byte]);
    at += used;
  }
  free(bytes);
  return 0;
}
