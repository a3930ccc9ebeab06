/*
 * PID 1 of a microVM that keeps to no contract: it sets the guest up as the agent does, opens the way to the host, and plays the script that it
 * finds on a drive, also where the drive comes after it was restored from a snapshot.
 */
#include <stdio.h>
#include <string.h>

#include "machine.h"
#include "mounts.h"
#include "play.h"

#define HEAD "cocore-hostile\n"
#define LOOK_MS 5

int main(void)
{
  static char script[SCRIPT_BYTES + 1];
  struct fault fault = {0};
  if (guest_set_up(&fault) < 0) {
    fprintf(stderr, "hostile: %s\n", fault.message);
    power_off();
  }
  bool is_unopened = find_script(HEAD, script) && strncmp(script + strlen(HEAD), UNOPENED, strlen(UNOPENED)) == 0;
  if (!is_unopened)
    open_port();
  while (!find_script(HEAD, script))
    sleep_ms(LOOK_MS);
  char *rest = script + strlen(HEAD);
  for (char *step = strsep(&rest, "\n"); step != NULL && *step != '\0'; step = strsep(&rest, "\n"))
    play(step);
  serve();
}
