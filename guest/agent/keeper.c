#include "keeper.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mounts.h"
#include "network.h"

#define EMPTY_DIRECTORY "/run/fn/empty"
#define KEEPER_NAME "init"

/* Where the function sees the keeper, which is its PID 1, it sees a name, and nothing of the guest around it. */
static int hide(void)
{
  size_t length = strlen(program_invocation_name);
  if (length >= strlen(KEEPER_NAME)) {
    memset(program_invocation_name, 0, length);
    memcpy(program_invocation_name, KEEPER_NAME, strlen(KEEPER_NAME));
  }
  /* What is mounted outside of a process's root is not in its mountinfo, which everybody may read. */
  if (chroot(EMPTY_DIRECTORY) < 0 || chdir("/") < 0 || prctl(PR_SET_NAME, KEEPER_NAME) < 0)
    return -1;
  struct __user_cap_header_struct version = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2] = {0};
  if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || syscall(SYS_capset, &version, none) < 0)
    return -1;
  return prctl(PR_SET_DUMPABLE, 0);
}

/* The whole life of the keeper. `agent` is readable once its ids exist, and is told when there is nothing left to see. */
static _Noreturn void keep(int agent, bool has_network)
{
  char byte;
  if (RETRY(read(agent, &byte, 1)) != 1)
    _exit(1);
  /* A PID 1 gets from its own namespace only the signals that it has a handler for: it must have none. */
  signal(SIGALRM, SIG_DFL);
  if ((has_network && network_set_up() < 0) || hide() < 0 || RETRY(write(agent, "", 1)) != 1)
    _exit(1);
  syscall(SYS_close_range, 0, ~0U, 0);
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

static int write_of(pid_t pid, const char *name, const char *text)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  return write_file(path, text);
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

int keeper_start(struct keeper *keeper, bool has_network, struct fault *fault)
{
  int pair[2];
  char byte;
  if (mkdir("/run/fn", 0755) < 0 || mkdir("/run/fn/ns", 0700) < 0 || mkdir(EMPTY_DIRECTORY, 0555) < 0)
    return fail(fault, STAGE_SETUP, errno, "mkdir below /run/fn");
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return fail(fault, STAGE_SETUP, errno, "socketpair");
  scoped_fd ours = pair[0];
  scoped_fd keepers = pair[1];
  /* All namespaces in one call: the others are then owned by the user namespace, which may mount its /proc and /sys. */
  const unsigned long flags = CLONE_NEWUSER | CLONE_NEWPID | (has_network ? CLONE_NEWNET : 0) | SIGCHLD;
  keeper->pid = (pid_t) syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
  if (keeper->pid < 0)
    return fail(fault, STAGE_SETUP, errno, "clone");
  if (keeper->pid == 0)
    keep(keepers, has_network);
  close_fd(&keepers);

  char map[64];
  snprintf(map, sizeof map, "0 %d %d\n", CONTAINER_ID, CONTAINER_IDS);
  if (write_of(keeper->pid, "uid_map", map) < 0 || write_of(keeper->pid, "gid_map", map) < 0)
    return fail(fault, STAGE_SETUP, errno, "map the container's ids");
  /* A guest short of memory kills the function, never its PID 1. */
  if (write_of(keeper->pid, "oom_score_adj", "-1000") < 0)
    return fail(fault, STAGE_SETUP, errno, "write the keeper's oom_score_adj");
  if (bind_namespace(keeper->pid, "user", fault) < 0 || bind_namespace(keeper->pid, "pid", fault) < 0)
    return -1;
  if (has_network && network_give(NETWORK_INTERFACE, keeper->pid, NETWORK_INTERFACE) < 0)
    return fail(fault, STAGE_SETUP, errno, "give the network card to the container");
  if (has_network && bind_namespace(keeper->pid, "net", fault) < 0)
    return -1;
  keeper->user_namespace = open("/run/fn/ns/user", O_RDONLY | O_CLOEXEC);
  if (keeper->user_namespace < 0)
    return fail(fault, STAGE_SETUP, errno, "open the user namespace");
  if (RETRY(write(ours, "", 1)) != 1 || RETRY(read(ours, &byte, 1)) != 1)
    return fail(fault, STAGE_SETUP, 0, "the keeper died of its set-up");
  return 0;
}
