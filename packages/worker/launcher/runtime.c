#include "runtime.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "util.h"

#define PID_FILE "/state/pid"
#define LOG_FILE "/state/log"
#define NOTED "Exiting with status: "
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

bool runtime_noted(int *status)
{
  char log[4096], *last = NULL;
  if (read_tail(LOG_FILE, log, sizeof log) <= 0)
    return false;
  for (char *at = strstr(log, NOTED); at != NULL; at = strstr(at + 1, NOTED))
    last = at;
  return last != NULL && sscanf(last + strlen(NOTED), "%d", status) == 1;
}
