#include "jail.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "util.h"

/* `target` is below the working directory, the jail's root to be. */
static void bind(const char *source, const char *target, unsigned long flags)
{
  if (mount(source, target, NULL, MS_BIND, NULL) < 0)
    fault(SETUP, "bind %s", source);
  if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | flags, NULL) < 0)
    fault(SETUP, "bind %s read-only", source);
}

static void make(const char *path, mode_t mode)
{
  if (mkdir(path, mode) < 0)
    fault(SETUP, "mkdir %s", path);
}

static void bind_file(const char *source, const char *target, unsigned long flags)
{
  int fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0)
    fault(SETUP, "create %s", target);
  close(fd);
  bind(source, target, flags);
}

/* The host's programs and libraries, and nothing of its configuration. */
static void bind_programs(void)
{
  static const char *const names[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};
  make("usr", 0755);
  bind("/usr", "usr", MS_RDONLY | MS_NODEV);
  for (size_t at = 0; at < sizeof names / sizeof *names; at += 1) {
    char path[16], link[256];
    snprintf(path, sizeof path, "/%s", names[at]);
    long length = readlink(path, link, sizeof link - 1);
    struct stat status;
    if (length > 0) {
      link[length] = '\0';
      if (symlink(link, names[at]) < 0)
        fault(SETUP, "link %s", path);
    } else if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
      make(names[at], 0755);
      bind(path, names[at], MS_RDONLY | MS_NODEV);
    }
  }
  make("etc", 0755);
  if (access("/etc/ld.so.cache", R_OK) == 0)
    bind_file("/etc/ld.so.cache", "etc/ld.so.cache", MS_RDONLY | MS_NODEV | MS_NOEXEC);
}

/* The launcher itself, by its path: its open file is one of the host's mount namespace. */
static void bind_self(void)
{
  char path[4096];
  long length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length < 0)
    fault(SETUP, "find the launcher");
  path[length] = '\0';
  bind_file(path, "launch", MS_RDONLY | MS_NODEV);
}

static void bind_devices(void)
{
  static const char *const names[] = {"null", "zero", "full", "random", "urandom", "tty"};
  make("dev", 0755);
  for (size_t at = 0; at < sizeof names / sizeof *names; at += 1) {
    char from[16], *to = from + 1;
    snprintf(from, sizeof from, "/dev/%s", names[at]);
    bind_file(from, to, MS_NOEXEC);
  }
}

/*
 * The /proc of a PID namespace is made by a process in it. The runtime, which is root in its user namespace alone, may make further ones
 * only where it sees one whole; the same holds for /sys, whose network part is that of this process's empty namespace.
 */
static void mount_proc(pid_t keeper)
{
  const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/pid", keeper);
  int namespace = open(path, O_RDONLY | O_CLOEXEC);
  if (namespace < 0 || setns(namespace, CLONE_NEWPID) < 0)
    fault(SETUP, "use the sandbox's PID namespace");
  close(namespace);
  make("proc", 0555);
  make("sys", 0555);
  pid_t child = fork();
  if (child < 0)
    fault(SETUP, "fork");
  if (child == 0) {
    if (mount("proc", "proc", "proc", quiet, NULL) < 0)
      fault(SETUP, "mount /proc");
    _exit(0);
  }
  int status;
  if (RETRY(waitpid(child, &status, 0)) != child || status != 0)
    _exit(1);
  if (mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL) < 0)
    fault(SETUP, "mount /sys");
  /* crun wants to see which version of control groups there is, and is told to leave them alone. */
  if (mount("cgroup", "sys/fs/cgroup", "tmpfs", quiet | MS_RDONLY, "size=4k,mode=555") < 0)
    fault(SETUP, "mount /sys/fs/cgroup");
}

void enter_jail(const struct jail *jail)
{
  char bundle[4096], root[4096], options[64];
  snprintf(bundle, sizeof bundle, "%s/bundle", jail->directory);
  snprintf(root, sizeof root, "%s/root", jail->directory);
  if (mount("jail", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755") < 0 || chdir(root) < 0)
    fault(SETUP, "mount the jail");
  mount_drives(&jail->drives);
  bind_programs();
  bind_devices();
  bind_self();
  make("bundle", 0755);
  bind(bundle, "bundle", MS_RDONLY | MS_NODEV | MS_NOEXEC);
  mount_proc(jail->keeper);
  make("empty", 0555);
  make("tmp", 0755);
  make("old", 0700);
  make("state", 0700);
  snprintf(options, sizeof options, "size=16m,mode=700,uid=%u,gid=%u", jail->drives.base, jail->drives.base);
  if (mount("state", "state", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
    fault(SETUP, "mount the runtime's state");
  /* The keeper shares this mount namespace for now: its root changes too. */
  if (syscall(SYS_pivot_root, ".", "old") < 0 || umount2("/old", MNT_DETACH) < 0 || chdir("/") < 0)
    fault(SETUP, "leave the host's root");
  if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, "size=1m,mode=755") < 0)
    fault(SETUP, "make the jail read-only");
}
