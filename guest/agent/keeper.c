#include "keeper.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mounts.h"

/* The whole life of the keeper. `mapped` is readable once its ids exist. */
static _Noreturn void keep(int mapped)
{
  char byte;
  if (RETRY(read(mapped, &byte, 1)) != 1)
    _exit(1);
  syscall(SYS_close_range, 0, ~0U, 0);
  /* Seen by the function as its PID 1: named for what it does, owned by the container's root, closed to tracing. */
  if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || prctl(PR_SET_NAME, "init") < 0 ||
      prctl(PR_SET_DUMPABLE, 0) < 0)
    _exit(1);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  for (;;) {
    while (waitpid(-1, NULL, WNOHANG) > 0)
      ;
    sigwaitinfo(&child, NULL);
  }
}

static int write_map(pid_t pid, const char *name)
{
  char path[64], map[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  snprintf(map, sizeof map, "0 %d %d\n", CONTAINER_ID, CONTAINER_IDS);
  return write_file(path, map);
}

static int bind_namespace(pid_t pid, const char *name, struct fault *fault)
{
  char from[64], to[64];
  snprintf(from, sizeof from, "/proc/%d/ns/%s", pid, name);
  snprintf(to, sizeof to, "/run/fn/ns/%s", name);
  scoped_fd target = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (target < 0)
    return fail(fault, STAGE_SETUP, errno, "create %s", to);
  if (mount(from, to, NULL, MS_BIND, NULL) < 0)
    return fail(fault, STAGE_SETUP, errno, "bind %s", from);
  return 0;
}

int keeper_start(struct keeper *keeper, struct fault *fault)
{
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) < 0)
    return fail(fault, STAGE_SETUP, errno, "pipe");
  scoped_fd wait_end = pipe_fds[0];
  scoped_fd go_end = pipe_fds[1];
  /* Both namespaces in one call: the PID namespace is then owned by the user namespace, which may mount its /proc. */
  keeper->pid = (pid_t) syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
  if (keeper->pid < 0)
    return fail(fault, STAGE_SETUP, errno, "clone");
  if (keeper->pid == 0)
    keep(wait_end);

  if (write_map(keeper->pid, "uid_map") < 0 || write_map(keeper->pid, "gid_map") < 0)
    return fail(fault, STAGE_SETUP, errno, "map the container's ids");
  if ((mkdir("/run/fn", 0755) < 0 && errno != EEXIST) || mkdir("/run/fn/ns", 0700) < 0)
    return fail(fault, STAGE_SETUP, errno, "mkdir /run/fn/ns");
  if (bind_namespace(keeper->pid, "user", fault) < 0 || bind_namespace(keeper->pid, "pid", fault) < 0)
    return -1;
  keeper->user_namespace = open("/run/fn/ns/user", O_RDONLY | O_CLOEXEC);
  if (keeper->user_namespace < 0)
    return fail(fault, STAGE_SETUP, errno, "open the user namespace");
  if (RETRY(write(go_end, "", 1)) != 1)
    return fail(fault, STAGE_SETUP, errno, "release the keeper");
  return 0;
}
