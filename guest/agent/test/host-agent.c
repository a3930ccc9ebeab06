/*
 * The agent's event loop on this machine: the host is file descriptor 3, and a TASK's configuration is a command for
 * /bin/sh. `host-agent SILENCE_MS [listen]`: with `listen`, the host connects to descriptor 3, and who is bound to the name `stranger` is
 * not the host. Powering off is exiting with 0.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "agent.h"
#include "input.h"

static pid_t group;

static int start(const uint8_t *config, size_t length, struct task *task, struct fault *fault)
{
  int child[3];
  char *command = strndup((const char *) config, length);
  if (strcmp(command, "refuse") == 0) {
    free(command);
    return fail(fault, STAGE_START, ENOENT, "no such program \xff");
  }
  if (strcmp(command, "hang") == 0)
    for (;;)
      pause();
  if (task_pipes(task, child) < 0) {
    free(command);
    return fail(fault, STAGE_SETUP, errno, "pipe");
  }
  task->pid = fork();
  if (task->pid == 0) {
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    for (int fd = 0; fd < 3; fd++)
      dup2(child[fd], fd);
    execl("/bin/sh", "sh", "-c", command, NULL);
    _exit(127);
  }
  setpgid(task->pid, task->pid);
  group = task->pid;
  for (int fd = 0; fd < 3; fd++)
    close_fd(&child[fd]);
  free(command);
  return 0;
}

static void kill_rest(void)
{
  kill(-group, SIGKILL);
  while (waitpid(-group, NULL, 0) > 0 || errno == EINTR)
    ;
}

static void usage(struct task_usage *usage)
{
  *usage = (struct task_usage) {.cpu_us = 11, .memory_peak_bytes = 22};
}

/* The exchange directory is the root of input files, whoever they should belong to. */
static int create_input(const char *path, uint32_t user, uint32_t users, struct fault *fault)
{
  scoped_fd root = open(getenv("EXCHANGE"), O_PATH | O_DIRECTORY | O_CLOEXEC);
  int file = user == users ? input_create(root, path, getuid(), getgid(), getuid()) : -1;
  return file < 0 ? fail(fault, STAGE_START, errno, "the input file %.200s cannot be made", path) : file;
}

static int exchange(void)
{
  const char *path = getenv("EXCHANGE");
  return path == NULL ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int seed(uint64_t epoch_ns, const uint8_t *entropy, size_t length, struct fault *fault)
{
  (void) entropy;
  return epoch_ns == 0 || length < 32 ? fail(fault, STAGE_SETUP, EINVAL, "seed") : 0;
}

static bool is_host(const struct sockaddr *peer)
{
  return strcmp(((const struct sockaddr_un *) peer)->sun_path + 1, "stranger") != 0;
}

static _Noreturn void power_off(void)
{
  _exit(0);
}

int main(int count, char **arguments)
{
  static const struct platform platform = {create_input, start, kill_rest, usage, exchange, seed, is_host, power_off};
  fcntl(3, F_SETFL, O_NONBLOCK);
  /* What the first process left is waited for here. */
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  bool listens = count > 2 && strcmp(arguments[2], "listen") == 0;
  struct endpoint endpoint = {listens ? -1 : 3, listens ? 3 : -1};
  agent_run(endpoint, &platform, count > 1 ? atoi(arguments[1]) : 20000);
}
