#include "confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control.h"

void die_with_daemon(pid_t daemon)
{
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != daemon)
    _exit(70);
}

static void limit(int resource, rlim_t value)
{
  struct rlimit limits = {.rlim_cur = value, .rlim_max = value};
  if (setrlimit(resource, &limits) < 0)
    give_up("set a resource limit");
}

#ifndef GATE_UNFILTERED
#define FIELD(name) ((uint32_t) offsetof(struct seccomp_data, name))
#define LOAD(name) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD(name))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define ALLOW_CALL(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), ALLOW

/* Sockets are of two families, and streams: what is decided about connections is decided about all that leaves. */
static void filter_calls(void)
{
  struct sock_filter program[] = {
    LOAD(arch),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
    KILL,
    LOAD(nr),
    ALLOW_CALL(splice),
    ALLOW_CALL(epoll_wait),
    ALLOW_CALL(clock_gettime),
    ALLOW_CALL(accept4),
    ALLOW_CALL(connect),
    ALLOW_CALL(shutdown),
    ALLOW_CALL(close),
    ALLOW_CALL(pipe2),
    ALLOW_CALL(epoll_ctl),
    ALLOW_CALL(getsockname),
    ALLOW_CALL(getpeername),
    ALLOW_CALL(getsockopt),
    ALLOW_CALL(setsockopt),
    ALLOW_CALL(sendto),
    ALLOW_CALL(recvfrom),
    ALLOW_CALL(exit_group),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 1, 0),
    KILL,
    LOAD(args[0]),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0),
    KILL,
    LOAD(args[1]),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 0, 1),
    ALLOW,
    KILL,
  };
  struct sock_fprog filter = {.len = sizeof program / sizeof *program, .filter = program};
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
    give_up("filter system calls");
}
#endif

void confine(uid_t uid, const char *root, unsigned files, pid_t daemon)
{
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_NPROC, 0);
  limit(RLIMIT_NOFILE, files);
  if (chroot(root) < 0 || chdir("/") < 0)
    give_up("change to the gate's root");
  if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
    give_up("give up root");
  die_with_daemon(daemon);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
    give_up("give up new privileges");
#ifndef GATE_UNFILTERED
  filter_calls();
#endif
}
