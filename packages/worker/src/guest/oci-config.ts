import { type ContainerUser, EXCHANGE_DIRECTORY } from '@cocore/protocol';
import { seccompProfile } from './seccomp.ts';

/** What the container of one attempt is made from. Paths are those of the guest; see `docs/reference/guest-frames.md`. */
export interface ContainerSpec {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly user: ContainerUser;
  readonly memoryMiB: number;
  readonly hostname: string;
  readonly hasNetwork: boolean;
}

const MAX_PROCESSES = 1024;
const MAX_OPEN_FILES = 4096;
const SHM_BYTES = 64 * 2 ** 20;

/**
 * Docker's default set less NET_RAW and MKNOD. They count within the container's user namespace, over its own files and
 * processes only; package managers and `su` in an image expect them.
 */
const CAPABILITIES = [
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_NET_BIND_SERVICE',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_CHROOT',
];

/** As Docker's defaults. */
const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
];
const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** What is the same for every function. */
const FIXED = {
  ociVersion: '1.0.2',
  root: { path: '/run/fn/rootfs', readonly: false },
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    {
      destination: '/dev',
      type: 'tmpfs',
      source: 'tmpfs',
      options: ['nosuid', 'strictatime', 'mode=755', 'size=64k'],
    },
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620'],
    },
    {
      destination: '/dev/shm',
      type: 'tmpfs',
      source: 'shm',
      options: ['nosuid', 'noexec', 'nodev', 'mode=1777', `size=${SHM_BYTES}`],
    },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
    { destination: '/function', type: 'bind', source: '/run/fn/code', options: ['bind', 'ro', 'nosuid', 'nodev'] },
    {
      destination: EXCHANGE_DIRECTORY,
      type: 'bind',
      source: '/run/fn/scratch/exchange',
      options: ['bind', 'rw', 'nosuid', 'nodev'],
    },
  ],
};
const FIXED_OF_LINUX = {
  cgroupsPath: '/fn/task',
  maskedPaths: MASKED_PATHS,
  readonlyPaths: READONLY_PATHS,
  seccomp: seccompProfile(),
};
const FIXED_TEXT = JSON.stringify(FIXED);
const FIXED_OF_LINUX_TEXT = JSON.stringify(FIXED_OF_LINUX);

function ownOf(spec: ContainerSpec) {
  const { uid } = spec.user;
  // As Docker: another user than root has none, and gets none by starting a program.
  const effective = uid === 0 ? CAPABILITIES : [];
  return {
    process: {
      terminal: false,
      user: spec.user,
      args: spec.argv,
      env: Object.entries(spec.env).map(([name, value]) => `${name}=${value}`),
      cwd: spec.cwd,
      capabilities: { bounding: CAPABILITIES, effective, permitted: effective },
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: MAX_OPEN_FILES, hard: MAX_OPEN_FILES },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
      noNewPrivileges: true,
      oomScoreAdj: 500,
    },
    hostname: spec.hostname,
  };
}

function ownOfLinux({ hasNetwork, memoryMiB }: ContainerSpec) {
  return {
    namespaces: [
      { type: 'user', path: '/run/fn/ns/user' },
      { type: 'pid', path: '/run/fn/ns/pid' },
      { type: 'mount' },
      { type: 'ipc' },
      { type: 'uts' },
      // A new one has a loopback alone.
      hasNetwork ? { type: 'network', path: '/run/fn/ns/net' } : { type: 'network' },
      { type: 'cgroup' },
    ],
    resources: {
      memory: { limit: memoryMiB * 2 ** 20, swap: memoryMiB * 2 ** 20 },
      pids: { limit: MAX_PROCESSES },
      unified: { 'memory.oom.group': '1' },
    },
  };
}

/** The OCI runtime configuration (version 1.0) that the agent gives to `crun`. */
export function ociConfig(spec: ContainerSpec) {
  return { ...ownOf(spec), ...FIXED, linux: { ...ownOfLinux(spec), ...FIXED_OF_LINUX } };
}

/** The same as JSON. What never changes is most of it, the profile of system calls above all: it is made into text once. */
export function ociConfigText(spec: ContainerSpec): string {
  const linux = joined(JSON.stringify(ownOfLinux(spec)), FIXED_OF_LINUX_TEXT);
  return joined(joined(JSON.stringify(ownOf(spec)), FIXED_TEXT), `{"linux":${linux}}`);
}

/** Two objects as one, as JSON; neither is empty. */
const joined = (one: string, other: string): string => `${one.slice(0, -1)},${other.slice(1)}`;
