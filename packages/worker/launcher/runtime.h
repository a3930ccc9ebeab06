/* How the runtime is called, and what its end says. */
#ifndef COCORE_LAUNCH_RUNTIME_H
#define COCORE_LAUNCH_RUNTIME_H

#include <stdbool.h>
#include <sys/types.h>

struct runtime
{
  /* Its command line that starts the container. */
  char **run;
  /* The one that sends the container a signal, whose number is added; NULL when the container's process is one of this namespace. */
  char **kill;
};

/* The function's streams; in the order of their descriptors. */
struct streams
{
  int ends[3];
  /* The other ends, held until the daemon has opened them. */
  int held[3];
};

/* Starts the program with the function's streams as its own. */
pid_t runtime_run(char *const *arguments, const struct streams *streams);

/* Sends the container a signal through the runtime. */
void runtime_signal(const struct runtime *runtime, int number);

/* The process of a container that the runtime has left running; it wrote it to its state. */
pid_t runtime_container(void);

/* The container's wait status as the runtime noted it; false when it noted none. */
bool runtime_noted(int *status);

/* The last line that the runtime logged; empty when it did not. */
const char *runtime_last_words(void);

#endif
