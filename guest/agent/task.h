/* One task: from its configuration to its process's end, and what it used. */
#ifndef COCORE_TASK_H
#define COCORE_TASK_H

#include <sys/socket.h>
#include <sys/types.h>

#include "util.h"

struct task
{
  /* The function's first process. */
  pid_t pid;
  /* The agent's ends of its three streams, non-blocking. */
  int stdin_fd;
  int stdout_fd;
  int stderr_fd;
};

struct task_usage
{
  uint64_t cpu_us;
  uint64_t memory_peak_bytes;
  bool out_of_memory;
};

/*
 * What the event loop needs done outside of it. The agent's own is `microvm_platform`; the tests of the loop bring one
 * that starts a plain process on the machine they run on.
 */
struct platform
{
  /*
   * Makes a file in the task's root, before the start, for a user of the container. Returns a descriptor to write to, or -1 with `fault`.
   */
  int (*create_input)(const char *path, uint32_t user, uint32_t group, struct fault *fault);
  /* Starts the task that the configuration (JSON, `length` bytes) describes. Returns 0, or -1 with `fault`. */
  int (*start)(const uint8_t *config, size_t length, struct task *task, struct fault *fault);
  /*
   * Kills whatever is left of the task, and only returns when nothing of it can write any more. Its first process must have been
   * waited for: the end of its PID namespace waits for that.
   */
  void (*kill_rest)(void);
  void (*usage)(struct task_usage *usage);
  /* A descriptor of the directory in which the task leaves its result and artifacts, once nothing of it lives; or -1. */
  int (*exchange)(void);
  /* Sets the clock and reseeds the kernel's generator. Returns 0, or -1 with `fault`. */
  int (*seed)(uint64_t epoch_ns, const uint8_t *entropy, size_t length, struct fault *fault);
  /* Whether who connected from there is the host. */
  bool (*is_host)(const struct sockaddr *peer);
  /* Ends the guest. Does not return; also called from a signal handler. */
  void (*power_off)(void) __attribute__((noreturn));
};

extern const struct platform microvm_platform;

/*
 * Makes what every task needs whatever it is, before the agent opens its way to the host: it is then in the snapshot of the guest. Once, before
 * `start`. Returns 0, or -1 with `fault`.
 */
int microvm_prepare(struct fault *fault);

/* Three pipes for a child: `child` are its ends of the streams 0, 1 and 2, `task` gets the others. Returns 0, or -1 with errno. */
int task_pipes(struct task *task, int child[3]);

#endif
