#ifndef COCORE_GATE_CLOCK_H
#define COCORE_GATE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t now_ms(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t) time.tv_sec * 1000 + (uint64_t) time.tv_nsec / 1000000;
}

/* So many of something a second, and so many at once after a pause. */
struct rate
{
  uint32_t per_second, burst;
  uint64_t thousandths, at_ms;
};

/* Takes one, unless there were too many. */
static inline bool rate_take(struct rate *rate, uint64_t at_ms)
{
  uint64_t most = (uint64_t) rate->burst * 1000;
  if (rate->at_ms == 0)
    rate->thousandths = most;
  else
    rate->thousandths += (at_ms - rate->at_ms) * rate->per_second;
  if (rate->thousandths > most)
    rate->thousandths = most;
  rate->at_ms = at_ms;
  if (rate->thousandths < 1000)
    return false;
  rate->thousandths -= 1000;
  return true;
}

#endif
