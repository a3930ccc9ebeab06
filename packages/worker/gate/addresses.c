#include "addresses.h"

#include <stddef.h>

#define IPV4(a, b, c, d) ((uint32_t) (a) << 24 | (uint32_t) (b) << 16 | (uint32_t) (c) << 8 | (uint32_t) (d))

/* In the order of packages/protocol/src/addresses.ts; a test compares the two. */
static const struct
{
  uint32_t base;
  int prefix;
} NOT_PUBLIC[] = {
  {IPV4(0, 0, 0, 0), 8},       {IPV4(10, 0, 0, 0), 8},     {IPV4(100, 64, 0, 0), 10},  {IPV4(127, 0, 0, 0), 8},
  {IPV4(169, 254, 0, 0), 16},  {IPV4(172, 16, 0, 0), 12},  {IPV4(192, 0, 0, 0), 24},   {IPV4(192, 0, 2, 0), 24},
  {IPV4(192, 88, 99, 0), 24},  {IPV4(192, 168, 0, 0), 16}, {IPV4(198, 18, 0, 0), 15},  {IPV4(198, 51, 100, 0), 24},
  {IPV4(203, 0, 113, 0), 24},  {IPV4(224, 0, 0, 0), 4},    {IPV4(240, 0, 0, 0), 4},
};

bool is_public(uint32_t address)
{
  for (size_t at = 0; at < sizeof NOT_PUBLIC / sizeof *NOT_PUBLIC; at += 1)
    if ((address ^ NOT_PUBLIC[at].base) >> (32 - NOT_PUBLIC[at].prefix) == 0)
      return false;
  return true;
}
