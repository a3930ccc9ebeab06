/*
 * Starts one container of an OCI runtime in a jail of its own: oci-launch RUN... [-- KILL...]
 *
 * RUN is the runtime's command line that starts the container of /bundle; KILL the one that sends it a signal. The daemon starts it as root with
 * descriptor 3 being the control socket, and these in the environment:
 *   LAUNCH_DAEMON     the daemon's process id
 *   LAUNCH_CGROUPS    files to join control groups by, one a line
 *   LAUNCH_DIRECTORY  the sandbox's own: `bundle`, an empty `root`, and the drive `scratch`; the function's pipes are made here
 *   LAUNCH_IMAGE, LAUNCH_CODE  erofs files
 *   LAUNCH_BASE       the host's id of the container's root, the first of 65,536
 *   LAUNCH_NETWORK    the network namespace with the container's end of a wire; without it the container has no network
 *
 * What it makes: a mount namespace whose root is a jail, empty network, IPC and UTS namespaces, a user namespace of those ids, a PID
 * namespace whose process 1 is the keeper, and the runtime under it. None of them is the host's root once it is made. Death of
 * the daemon, however it dies, ends all of it: the kernel kills this process with the daemon and the keeper with this process, and mounts and
 * loop devices go with the last process that sees them.
 *
 * In a container it is also what a runtime calls when the container has started (`oci-launch started`), and what the
 * driver's trial runs (`oci-launch trial`).
 */
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "jail.h"
#include "keeper.h"
#include "network.h"
#include "runtime.h"
#include "util.h"

static void die_with_daemon(pid_t daemon)
{
  /* The daemon may have died before the signal was set. */
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != daemon)
    _exit(70);
}

static void join_cgroups(const char *files)
{
  char *list = strdup(files);
  for (char *path = strtok(list, "\n"); path != NULL; path = strtok(NULL, "\n"))
    if (write_file(path, "0") < 0)
      fault(SETUP, "join %s", path);
  free(list);
}

/*
 * Named pipes, so that the daemon can open their other ends, which are not sockets: a function may open /dev/stdout again. They are opened through
 * a mount whose root is their directory, so that /proc/self/fd tells the function no path of the host.
 */
static struct streams make_streams(const char *directory, uid_t owner)
{
  char root[4096];
  snprintf(root, sizeof root, "%s/root", directory);
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount(directory, root, NULL, MS_BIND, NULL) < 0)
    fault(SETUP, "bind the sandbox's directory");
  static const char *const names[] = {"stdin", "stdout", "stderr"};
  struct streams streams;
  for (int at = 0; at < 3; at += 1) {
    char path[4112];
    snprintf(path, sizeof path, "%s/%s", root, names[at]);
    if (mkfifo(path, 0600) < 0 || chown(path, owner, owner) < 0)
      fault(SETUP, "make %s", path);
    streams.held[at] = open(path, O_RDWR | O_CLOEXEC);
    streams.ends[at] = open(path, (at == 0 ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
    if (streams.held[at] < 0 || streams.ends[at] < 0)
      fault(SETUP, "open %s", path);
  }
  if (umount2(root, MNT_DETACH) < 0)
    fault(SETUP, "leave the sandbox's directory");
  return streams;
}

/* Takes the container's end of the wire out of the gate's namespace (packages/worker/gate). */
static void connect_network(const char *namespace, pid_t keeper)
{
  pid_t child = fork();
  if (child < 0)
    fault(SETUP, "fork");
  if (child == 0) {
    int gate = open(namespace, O_RDONLY | O_CLOEXEC);
    if (gate < 0 || setns(gate, CLONE_NEWNET) < 0 || network_give("guest0", keeper, NETWORK_INTERFACE) < 0)
      fault(SETUP, "connect the sandbox's network");
    _exit(0);
  }
  int status;
  if (RETRY(waitpid(child, &status, 0)) != child || status != 0)
    _exit(1);
}

static void limit(int resource, rlim_t value)
{
  struct rlimit limits = {.rlim_cur = value, .rlim_max = value};
  if (setrlimit(resource, &limits) < 0)
    fault(SETUP, "set a resource limit");
}

int main(int count, char **arguments)
{
  if (count == 2 && strcmp(arguments[1], "started") == 0)
    return kill(1, SIGUSR1) < 0;
  if (count == 2 && strcmp(arguments[1], "trial") == 0)
    return printf("runs\n") < 0;

  pid_t daemon = (pid_t) atoi(setting("LAUNCH_DAEMON"));
  uid_t base = (uid_t) strtoul(setting("LAUNCH_BASE"), NULL, 10);
  const char *directory = setting("LAUNCH_DIRECTORY");
  const char *network = getenv("LAUNCH_NETWORK");
  struct runtime runtime = {.run = arguments + 1};
  for (int at = 1; at < count; at += 1)
    if (strcmp(arguments[at], "--") == 0) {
      arguments[at] = NULL;
      runtime.kill = arguments + at + 1;
      break;
    }

  umask(022);
  die_with_daemon(daemon);
  for (int fd = CONTROL_FD; fd <= ARTIFACTS_FD; fd += 1)
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  join_cgroups(setting("LAUNCH_CGROUPS"));
  limit(RLIMIT_CORE, 0);
  if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
    fault(SETUP, "unshare");
  struct streams streams = make_streams(directory, base);
  struct keeper keeper = keeper_start(base, network != NULL, &runtime, &streams);
  for (int at = 0; at < 3; at += 1) {
    close(streams.ends[at]);
    close(streams.held[at]);
  }
  /* Their ends are the keeper's to give. */
  close(RESULT_FD);
  close(ARTIFACTS_FD);
  if (network != NULL)
    connect_network(network, keeper.pid);

  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/user", keeper.pid);
  char scratch[4096];
  snprintf(scratch, sizeof scratch, "%s/scratch", directory);
  struct jail jail = {
    .directory = directory,
    .drives = {.image = setting("LAUNCH_IMAGE"), .code = setting("LAUNCH_CODE"), .scratch = scratch, .base = base,
               .user_namespace = open(path, O_RDONLY | O_CLOEXEC)},
    .keeper = keeper.pid,
  };
  if (jail.drives.user_namespace < 0)
    fault(SETUP, "open the user namespace");
  enter_jail(&jail);

  /* Nothing is left to do for the host's root. */
  if (setgroups(0, NULL) < 0 || setresgid(base, base, base) < 0 || setresuid(base, base, base) < 0)
    fault(SETUP, "give up root");
  die_with_daemon(daemon);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    fault(SETUP, "give up new privileges");
  if (RETRY(write(keeper.go, "", 1)) != 1)
    fault(SETUP, "release the keeper");
  close(CONTROL_FD);
  int status;
  if (RETRY(waitpid(keeper.pid, &status, 0)) < 0)
    return 1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
