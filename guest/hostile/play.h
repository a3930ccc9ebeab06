/* The steps of a script: packages/worker/test/support/hostile-script.ts says what there is and what each does. */
#ifndef COCORE_HOSTILE_PLAY_H
#define COCORE_HOSTILE_PLAY_H

/* The step of a guest that never opens its port: only of use as the first. */
#define UNOPENED "unopened"

/* Plays one step, a line of the script. */
void play(char *step);

/* Reads, and answers pings, as far as the script allows; for ever. */
_Noreturn void serve(void);

#endif
