/**
 * Which system calls a function may make: what Docker's default profile (moby, `profiles/seccomp/default.json`) allows with the
 * container's capabilities on x86-64, less io_uring and clock adjustment, and with sockets by an allow list of families. Everything
 * else, such as keyctl, bpf, userfaultfd, mounts and namespaces, fails with EPERM. Only the native architecture is named: programs of
 * others (32 bit, x32) are killed.
 */
const ALLOWED = {
  files: `access chdir chmod chown chroot close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr
    fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lchown lgetxattr link linkat listxattr
    llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64
    preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir
    sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime
    utimensat utimes vmsplice write writev`,
  waiting: `epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 fanotify_mark inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit pause pipe pipe2 poll
    ppoll pselect6 select signalfd signalfd4`,
  memory: `brk madvise membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall
    munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages`,
  processes: `alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid geteuid
    getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid
    ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt pidfd_open pidfd_send_signal
    prctl prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill tkill
    vfork wait4 waitid`,
  ipc: `futex futex_waitv mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget
    semop semtimedop shmat shmctl shmdt shmget`,
  sockets: `accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
    setsockopt shutdown socketpair`,
  time: `clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep sysinfo time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times uname`,
};

/**
 * Equal to one of these, never "other than AF_VSOCK and AF_ALG": the filter compares 64 bits and the kernel uses 32, so what is excluded
 * could be asked for with the upper half set.
 */
const SOCKET_FAMILIES = { AF_UNIX: 1, AF_INET: 2, AF_INET6: 10, AF_NETLINK: 16 };

/** PER_LINUX and PER_LINUX32, each with and without UNAME26, and the question which it is: as Docker. */
const PERSONALITIES = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/** Every CLONE_NEW… flag. */
const CLONE_NAMESPACES = 0x7e02_0000;
const EPERM = 1;
const ENOSYS = 38;

const names = (text: string) => text.trim().split(/\s+/);
const allowEqual = (name: string, value: number) => ({
  names: [name],
  action: 'SCMP_ACT_ALLOW',
  args: [{ index: 0, value, op: 'SCMP_CMP_EQ' }],
});

/** The profile as the OCI runtime configuration has it. */
export function seccompProfile() {
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: EPERM,
    architectures: ['SCMP_ARCH_X86_64'],
    syscalls: [
      { names: Object.values(ALLOWED).flatMap(names), action: 'SCMP_ACT_ALLOW' },
      ...Object.values(SOCKET_FAMILIES).map((family) => allowEqual('socket', family)),
      ...PERSONALITIES.map((personality) => allowEqual('personality', personality)),
      {
        names: ['clone'],
        action: 'SCMP_ACT_ALLOW',
        args: [{ index: 0, value: CLONE_NAMESPACES, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
      },
      // Its flags are behind a pointer, which a filter cannot read: C libraries fall back to clone on ENOSYS.
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
    ],
  };
}
