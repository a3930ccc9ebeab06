#include "keeper.h"

#include <endian.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "input.h"
#include "leavings.h"
#include "network.h"
#include "util.h"

#define IDS 65536
#define NAME "init"
#define EXCHANGE "/scratch/exchange"
#define ROOT "/rootfs"

struct task
{
  const struct runtime *runtime;
  const struct streams *streams;
  /* The runtime's process, or 0. */
  pid_t runs;
  /* The container's process, where it is one of this namespace and has started, or 0. */
  pid_t container;
  bool started;
  /* Where the function leaves things, and how many bytes its artifacts may be. */
  int exchange;
  uint64_t artifacts_limit;
};

static void set_up(void)
{
  /* The daemon and its launcher die before this does: either way the socket ends, and this with it. */
  if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
    fault(SETUP, "become the sandbox's root");
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
    fault(SETUP, "confine the sandbox's root");
  if (unshare(CLONE_NEWNS) < 0 || chdir("/") < 0 || setsid() < 0)
    fault(SETUP, "unshare the sandbox's mounts");
  if (prctl(PR_SET_NAME, NAME) < 0)
    fault(SETUP, "take the name " NAME);
  size_t length = strlen(program_invocation_name);
  memset(program_invocation_name, 0, length);
  memcpy(program_invocation_name, NAME, length < strlen(NAME) ? length : strlen(NAME));
}

/*
 * The container's network, before the runtime looks at it. Older versions of runsc take a namespace that has net.core.rmem_default for the
 * host's, and refuse it; since Linux 6.10 every one has it.
 */
static void set_up_network(const struct runtime *runtime)
{
  if (network_set_up() < 0)
    fault(SETUP, "set the sandbox's network up");
  if (runtime->kill != NULL && mount("hidden", "/proc/sys/net/core", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k") < 0)
    fault(SETUP, "hide net.core");
}

/*
 * The container's processes see this one: it shows and offers nothing. It must still be able to signal what changed its user, and to read
 * what any user of the container left.
 */
static void hide(void)
{
  struct __user_cap_header_struct version = {.version = _LINUX_CAPABILITY_VERSION_3};
  const unsigned needed = 1U << CAP_KILL | 1U << CAP_DAC_READ_SEARCH;
  struct __user_cap_data_struct only[2] = {{.effective = needed, .permitted = needed}};
  if (chroot("/empty") < 0 || chdir("/") < 0 || syscall(SYS_capset, &version, only) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
    fault(SETUP, "hide the keeper");
}

/* All bytes of the function are in its pipes by then, and nobody writes more. */
static void end_all(void)
{
  kill(-1, SIGKILL);
  while (RETRY(waitpid(-1, NULL, 0)) > 0)
    ;
}

static void report(int status)
{
  if (WIFSIGNALED(status))
    say("signaled %d", WTERMSIG(status));
  else
    say("exited %d", WEXITSTATUS(status));
}

/* To a daemon that is gone nothing needs to be given. */
static void give(int fd, const uint8_t *bytes, size_t length)
{
  for (size_t at = 0; at < length;) {
    long count = RETRY(send(fd, bytes + at, length - at, MSG_NOSIGNAL));
    if (count < 0)
      _exit(1);
    at += (size_t) count;
  }
}

/*
 * Gives the daemon what the function left, as it takes it. Every process that could change it is dead, and the daemon itself never looks at a
 * file system that a function has written.
 */
static void hand_over(const struct task *task)
{
  static uint8_t piece[64 * 1024];
  struct leavings left;
  leavings_open(&left, task->exchange, task->artifacts_limit);
  if (left.refused != REFUSED_NOTHING)
    say("unfit %s %s", left.refused == REFUSED_RESULT ? "result" : "artifacts", left.message);
  give(RESULT_FD, left.result, left.result_length);
  close(RESULT_FD);
  for (uint64_t at = 0; at < left.artifacts.length;) {
    long count = archive_read(&left.artifacts, at, piece, sizeof piece);
    if (count <= 0)
      fault(SETUP, "read what the function left");
    give(ARTIFACTS_FD, piece, (size_t) count);
    at += (uint64_t) count;
  }
  close(ARTIFACTS_FD);
  say("left %u", left.artifacts.files);
  leavings_close(&left);
}

static void begin(struct task *task)
{
  if (task->runs != 0 || task->started)
    return;
  task->runs = runtime_run(task->runtime->run, task->streams);
  if (task->runs < 0)
    fault(START, "fork");
  for (int at = 0; at < 3; at += 1) {
    close(task->streams->ends[at]);
    close(task->streams->held[at]);
  }
}

static void started(struct task *task)
{
  if (task->started)
    return;
  task->started = true;
  say("started");
}

/*
 * The runtime has ended: when it leaves containers running that is the start, else it is the end. One that was killed was so by its container, which sees it
 * until then, and so has started.
 */
static void runtime_ended(struct task *task, int status)
{
  task->runs = 0;
  bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (task->runtime->kill == NULL && (well || (WIFSIGNALED(status) && runtime_container() > 0))) {
    task->container = runtime_container();
    hide();
    return started(task);
  }
  int noted;
  bool known = task->runtime->kill != NULL && runtime_noted(&noted);
  end_all();
  if (known) {
    started(task);
    report(noted);
  } else {
    say("%s %s", task->started ? "lost" : "refused", runtime_last_words());
  }
  if (task->started)
    hand_over(task);
}

static void reap(struct task *task)
{
  int status;
  /* Until the container's process is known, what else ended waits. */
  if (task->runs != 0 && waitpid(task->runs, &status, WNOHANG) == task->runs)
    runtime_ended(task, status);
  if (task->runs != 0 && task->runtime->kill == NULL)
    return;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid == task->runs)
      runtime_ended(task, status);
    if (pid != task->container)
      continue;
    task->container = 0;
    end_all();
    report(status);
    hand_over(task);
  }
}

static void receive(void *to, size_t length)
{
  if (RETRY(recv(CONTROL_FD, to, length, MSG_WAITALL)) != (long) length)
    _exit(0);
}

/* An input file: its owner, the length of its path and the path follow, then its bytes. Before the runtime runs, nobody else is here. */
static void take_file(uint64_t left)
{
  static uint8_t piece[64 * 1024];
  uint32_t header[3];
  char path[INPUT_MAX_PATH + 1];
  receive(header, sizeof header);
  uint32_t length = le32toh(header[2]);
  if (length > INPUT_MAX_PATH)
    _exit(0);
  receive(path, length);
  path[length] = '\0';
  int root = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int file = root < 0 ? -1 : input_create(root, path, le32toh(header[0]), le32toh(header[1]), 0);
  if (file < 0)
    fault(START, "make the input file %s", path);
  while (left > 0) {
    size_t count = left < sizeof piece ? (size_t) left : sizeof piece;
    receive(piece, count);
    for (size_t at = 0; at < count;) {
      long written = RETRY(write(file, piece + at, count - at));
      if (written < 0)
        fault(START, "write the input file %s", path);
      at += (size_t) written;
    }
    left -= count;
  }
  close(file);
  close(root);
}

static void obey(struct task *task)
{
  /* A letter, and a number in little endian. */
  unsigned char order[9];
  uint64_t number;
  receive(order, sizeof order);
  memcpy(&number, order + 1, sizeof number);
  number = le64toh(number);
  if (order[0] == 'r') {
    task->artifacts_limit = number;
    begin(task);
  } else if (order[0] == 'f' && task->runs == 0 && !task->started) {
    take_file(number);
  } else if (order[0] == 's' && task->container > 0) {
    kill(task->container, (int) number);
  } else if (order[0] == 's' && task->runs > 0 && task->started) {
    runtime_signal(task->runtime, (int) number);
  }
}

static _Noreturn void keep(struct task *task)
{
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGUSR1);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  int news = signalfd(-1, &signals, SFD_CLOEXEC);
  if (news < 0)
    fault(SETUP, "signalfd");
  task->exchange = open(EXCHANGE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (task->exchange < 0)
    fault(SETUP, "open " EXCHANGE);
  say("ready");
  for (;;) {
    struct pollfd sources[2] = {{.fd = CONTROL_FD, .events = POLLIN}, {.fd = news, .events = POLLIN}};
    if (RETRY(poll(sources, 2, -1)) < 0)
      _exit(1);
    if (sources[1].revents != 0) {
      struct signalfd_siginfo signal;
      if (RETRY(read(news, &signal, sizeof signal)) != sizeof signal)
        _exit(1);
      /* The runtime's hook, run when the container's process has begun. */
      if (signal.ssi_signo == SIGUSR1 && task->runs != 0 && task->runtime->kill != NULL)
        started(task);
      reap(task);
    } else if (sources[0].revents != 0) {
      obey(task);
    }
  }
}

static void map_ids(pid_t pid, const char *name, uid_t base)
{
  char path[64], map[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  snprintf(map, sizeof map, "0 %u %d\n", base, IDS);
  if (write_file(path, map) < 0)
    fault(SETUP, "map the sandbox's ids");
}

struct keeper keeper_start(uid_t base, bool has_network, const struct runtime *runtime, const struct streams *streams)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    fault(SETUP, "pipe");
  /* All in one call: the other namespaces are then owned by the user namespace. */
  const unsigned long flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | (has_network ? CLONE_NEWNET : 0) | SIGCHLD;
  pid_t pid = (pid_t) syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
  if (pid < 0)
    fault(SETUP, "make the sandbox's namespaces");
  if (pid == 0) {
    char byte;
    close(ends[1]);
    if (RETRY(read(ends[0], &byte, 1)) != 1)
      _exit(1);
    close(ends[0]);
    struct task task = {.runtime = runtime, .streams = streams};
    set_up();
    if (has_network)
      set_up_network(runtime);
    keep(&task);
  }
  close(ends[0]);
  map_ids(pid, "uid_map", base);
  map_ids(pid, "gid_map", base);
  return (struct keeper){.pid = pid, .go = ends[1]};
}
