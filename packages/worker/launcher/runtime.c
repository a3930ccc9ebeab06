#include "runtime.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "util.h"

#define PID_FILE "/state/pid"
/* Logs of runsc's processes: the one that was called, and the container's kernel. */
#define RUN_LOG "/state/log.run"
#define BOOT_LOG "/state/log.boot"
#define KILL_ARGUMENTS_MAX 16

static _Noreturn void become(char *const *arguments)
{
  char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  prctl(PR_SET_DUMPABLE, 1);
  /* Short of memory, the kernel takes the function before what reports of it. */
  write_file("/proc/self/oom_score_adj", "500");
  execve(arguments[0], arguments, environment);
  fault(START, "start %s", arguments[0]);
}

pid_t runtime_run(char *const *arguments, const struct streams *streams)
{
  pid_t pid = fork();
  if (pid == 0) {
    for (int at = 0; at < 3; at += 1)
      if (dup2(streams->ends[at], at) < 0)
        fault(START, "give the function its streams");
    become(arguments);
  }
  return pid;
}

void runtime_signal(const struct runtime *runtime, int number)
{
  char text[16], *arguments[KILL_ARGUMENTS_MAX + 2];
  size_t count = 0;
  while (count < KILL_ARGUMENTS_MAX && runtime->kill[count] != NULL) {
    arguments[count] = runtime->kill[count];
    count += 1;
  }
  snprintf(text, sizeof text, "%d", number);
  arguments[count] = text;
  arguments[count + 1] = NULL;
  if (fork() == 0)
    become(arguments);
}

pid_t runtime_container(void)
{
  char text[32];
  return read_tail(PID_FILE, text, sizeof text) > 0 ? (pid_t) atoi(text) : -1;
}

/* The number after the last `text` in the end of a log. */
static bool number_after(const char *log, const char *text, int *number)
{
  char tail[4096];
  const char *last = NULL;
  if (read_tail(log, tail, sizeof tail) <= 0)
    return false;
  for (const char *at = strstr(tail, text); at != NULL; at = strstr(at + 1, text))
    last = at;
  return last != NULL && sscanf(last + strlen(text), "%d", number) == 1;
}

bool runtime_noted(int *status)
{
  int number;
  if (number_after(RUN_LOG, "Exiting with status: ", status))
    return true;
  /* A container that ends at once may be gone before runsc has begun to wait for it; its kernel noted the end too. */
  if (number_after(BOOT_LOG, "application exiting with exit status ", &number)) {
    *status = W_EXITCODE(number, 0);
    return true;
  }
  if (number_after(BOOT_LOG, "application exiting with killed by signal ", &number)) {
    *status = W_EXITCODE(0, number);
    return true;
  }
  return false;
}

const char *runtime_last_words(void)
{
  static char log[1024];
  long length = read_tail(RUN_LOG, log, sizeof log);
  while (length > 0 && log[length - 1] == '\n')
    log[--length] = '\0';
  char *line = length > 0 ? strrchr(log, '\n') : NULL;
  return length <= 0 ? "" : line == NULL ? log : line + 1;
}
