/* The platform of the real agent: crun, the guest's control groups, its clock and its power. */
#include <fcntl.h>
#include <linux/random.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "input.h"
#include "keeper.h"
#include "mounts.h"
#include "task.h"

#define CGROUP "/sys/fs/cgroup/fn"
#define CRUN "/usr/bin/crun"
#define CRUN_LOG "/run/fn/crun.log"
#define CRUN_PID "/run/fn/task.pid"

static struct keeper keeper;
/* crun's program, which nobody can write to any more. */
static int crun = -1;

static int make_cgroup(struct fault *fault)
{
  const char *controllers = "+cpu +memory +pids";
  if (write_file("/sys/fs/cgroup/cgroup.subtree_control", controllers) < 0)
    return fail(fault, STAGE_SETUP, errno, "enable control groups");
  if (mkdir(CGROUP, 0755) < 0)
    return fail(fault, STAGE_SETUP, errno, "mkdir " CGROUP);
  if (write_file(CGROUP "/cgroup.subtree_control", controllers) < 0)
    return fail(fault, STAGE_SETUP, errno, "enable the task's control groups");
  return 0;
}

/*
 * A container could write to the program that starts it. So crun copies itself into a sealed file in memory and begins anew from there,
 * unless it was started from such a file: this is that file. It starts once instead of three times, which is a third of its run.
 */
static int seal_crun(struct fault *fault)
{
  char path[64];
  struct stat file;
  scoped_fd from = open(CRUN, O_RDONLY | O_CLOEXEC);
  if (from < 0 || fstat(from, &file) < 0)
    return fail(fault, STAGE_SETUP, errno, "open " CRUN);
  scoped_fd sealed = memfd_create("crun", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (sealed < 0)
    return fail(fault, STAGE_SETUP, errno, "memfd_create");
  for (off_t left = file.st_size; left > 0;) {
    long count = RETRY(sendfile(sealed, from, NULL, (size_t) left));
    if (count <= 0)
      return fail(fault, STAGE_SETUP, errno, "copy " CRUN);
    left -= count;
  }
  if (fcntl(sealed, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
    return fail(fault, STAGE_SETUP, errno, "seal " CRUN);
  /* What is open for writing cannot be executed. */
  snprintf(path, sizeof path, "/proc/self/fd/%d", sealed);
  crun = open(path, O_RDONLY | O_CLOEXEC);
  return crun < 0 ? fail(fault, STAGE_SETUP, errno, "open the sealed " CRUN) : 0;
}

static int write_config(const uint8_t *config, size_t length, struct fault *fault)
{
  scoped_fd fd = open("/run/fn/config.json", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0)
    return fail(fault, STAGE_SETUP, errno, "create config.json");
  for (size_t at = 0; at < length;) {
    long count = RETRY(write(fd, config + at, length - at));
    if (count < 0)
      return fail(fault, STAGE_SETUP, errno, "write config.json");
    at += (size_t) count;
  }
  return 0;
}

/* The last line that crun logged, as the fault's message. */
static int fail_with_log(struct fault *fault, const char *verb)
{
  char log[4096];
  if (read_file(CRUN_LOG, log, sizeof log) <= 0)
    return fail(fault, STAGE_START, 0, "crun %s failed and said nothing", verb);
  size_t length = strlen(log);
  while (length > 0 && (log[length - 1] == '\n' || log[length - 1] == ' '))
    log[--length] = '\0';
  const char *line = strrchr(log, '\n');
  return fail(fault, STAGE_START, 0, "%s", line == NULL ? log : line + 1);
}

/* Runs crun to its end. `child` replaces its streams when given. Returns its exit status, or -1 with errno. */
static int run_crun(char *const arguments[], const int child[3])
{
  pid_t pid = fork();
  if (pid < 0)
    return -1;
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    for (int fd = 0; child != NULL && fd < 3; fd++)
      if (dup2(child[fd], fd) < 0)
        _exit(127);
    syscall(SYS_execveat, crun, "", arguments, (char *const[]) {"PATH=/usr/bin:/bin", NULL}, AT_EMPTY_PATH);
    _exit(127);
  }
  int status;
  return RETRY(waitpid(pid, &status, 0)) < 0 ? -1 : status;
}

static int read_pid(pid_t *pid)
{
  char text[32];
  if (read_file(CRUN_PID, text, sizeof text) <= 0)
    return -1;
  *pid = (pid_t) strtol(text, NULL, 10);
  return *pid > 1 ? 0 : -1;
}

int microvm_prepare(struct fault *fault)
{
  bool has_network = has_network_card();
  if (has_network && insert_modules("/lib/modules/load-order.net", fault) < 0)
    return -1;
  return seal_crun(fault) < 0 || make_cgroup(fault) < 0 ? -1 : keeper_start(&keeper, has_network, fault);
}

/* At the first word about the task, whichever it is. */
static int mount_once(struct fault *fault)
{
  static bool mounted;
  if (!mounted && task_mount(keeper.user_namespace, fault) < 0)
    return -1;
  mounted = true;
  return 0;
}

static int create_input(const char *path, uint32_t user, uint32_t group, struct fault *fault)
{
  if (mount_once(fault) < 0)
    return -1;
  scoped_fd root = open(TASK_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int file = root < 0 ? -1 : input_create(root, path, CONTAINER_ID + user, CONTAINER_ID + group, CONTAINER_ID);
  return file < 0 ? fail(fault, STAGE_START, errno, "the input file %.200s cannot be made", path) : file;
}

static int try_start(const uint8_t *config, size_t length, struct task *task, struct fault *fault)
{
  char *const run[] = {"crun", "--cgroup-manager=cgroupfs", "--log=" CRUN_LOG, "--root=/run/crun", "run", "--detach",
                       "--bundle=/run/fn", "--pid-file=" CRUN_PID, "task", NULL};
  int child[3] = {-1, -1, -1};

  if (mount_once(fault) < 0 || write_config(config, length, fault) < 0)
    return -1;
  if (task_pipes(task, child) < 0)
    return fail(fault, STAGE_SETUP, errno, "pipe");
  int status = run_crun(run, child);
  for (int at = 0; at < 3; at++)
    close_fd(&child[at]);
  if (status != 0 || read_pid(&task->pid) < 0)
    return fail_with_log(fault, "run");
  return 0;
}


static void kill_rest(void)
{
  /* The keeper's end ends its PID namespace: the kernel kills all that is in it before the keeper can be waited for. */
  kill(keeper.pid, SIGKILL);
  RETRY(waitpid(keeper.pid, NULL, 0));
}

static int start(const uint8_t *config, size_t length, struct task *task, struct fault *fault)
{
  *task = (struct task) {.stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
  if (try_start(config, length, task, fault) == 0)
    return 0;
  close_fd(&task->stdin_fd);
  close_fd(&task->stdout_fd);
  close_fd(&task->stderr_fd);
  /* A first process may be there already, or even run. Whoever of the namespace is the agent's child must be waited for before the keeper can be. */
  kill(keeper.pid, SIGKILL);
  while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
    ;
  return -1;
}

/* A number from a line `KEY NUMBER` of a control group's file; 0 when it is not there. */
static uint64_t keyed(const char *path, const char *key)
{
  char text[4096];
  if (read_file(path, text, sizeof text) < 0)
    return 0;
  size_t length = strlen(key);
  for (char *line = text; line != NULL; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, key, length) == 0 && line[length] == ' ')
      return strtoull(line + length + 1, NULL, 10);
    if (*line == '\0')
      break;
  }
  return 0;
}

static void usage(struct task_usage *usage)
{
  char peak[32] = "0";
  read_file(CGROUP "/memory.peak", peak, sizeof peak);
  usage->memory_peak_bytes = strtoull(peak, NULL, 10);
  usage->cpu_us = keyed(CGROUP "/cpu.stat", "usage_usec");
  usage->out_of_memory = keyed(CGROUP "/memory.events", "oom_kill") > 0;
}

static int exchange(void)
{
  return open(EXCHANGE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Guests that were restored from one snapshot had one name; a task without a host name of its own gets the guest's. */
static int name_guest(struct fault *fault)
{
  uint64_t number;
  char name[32];
  if (getrandom(&number, sizeof number, 0) != sizeof number)
    return fail(fault, STAGE_SETUP, errno, "getrandom");
  int length = snprintf(name, sizeof name, "guest-%016llx", (unsigned long long) number);
  if (sethostname(name, (size_t) length) < 0)
    return fail(fault, STAGE_SETUP, errno, "sethostname");
  return 0;
}

static int seed(uint64_t epoch_ns, const uint8_t *entropy, size_t length, struct fault *fault)
{
  struct timespec now = {.tv_sec = (time_t) (epoch_ns / 1000000000), .tv_nsec = (long) (epoch_ns % 1000000000)};
  if (clock_settime(CLOCK_REALTIME, &now) < 0)
    return fail(fault, STAGE_SETUP, errno, "clock_settime");
  struct
  {
    int bits;
    int size;
    uint8_t bytes[256];
  } pool = {.bits = (int) length * 8, .size = (int) length};
  memcpy(pool.bytes, entropy, length);
  scoped_fd fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  /* Adding entropy alone changes nothing that is read next: the generator has to be told to use it. */
  if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
    return fail(fault, STAGE_SETUP, errno, "reseed the generator");
  return name_guest(fault);
}

static bool is_host(const struct sockaddr *peer)
{
  return peer->sa_family == AF_VSOCK && ((const struct sockaddr_vm *) peer)->svm_cid == VMADDR_CID_HOST;
}

static _Noreturn void power_off(void)
{
  /* A microVM without ACPI has no power button; a reset ends it, because its monitor is told not to reboot. */
  reboot(RB_AUTOBOOT);
  for (;;)
    pause();
}

const struct platform microvm_platform = {create_input, start, kill_rest, usage, exchange, seed, is_host, power_off};
