import type { IsolationClass } from '@cocore/protocol';

/** An OCI runtime, and in what it differs from the others, as data. Paths are those of the jail (`launcher/jail.c`). */
export interface OciRuntime {
  /** The driver's name too. */
  readonly name: string;
  readonly isolation: IsolationClass;
  readonly program: string;
  /** The Debian package that has it. */
  readonly from: string;
  /** What it takes of the host's memory beside the function's own. */
  readonly overheadMiB: number;
  /** Processes and threads of its own. */
  readonly threads: number;
  /** The ways to run it, the best first; the first whose trial succeeds is used. */
  readonly platforms: readonly string[];
  /** What follows the program to start the container of a bundle. */
  run(platform: string, hasNetwork: boolean): readonly string[];
  /** What follows the program to signal the container; null when its process is one that the launcher sees. */
  kill(platform: string, hasNetwork: boolean): readonly string[] | null;
  /** Whether the runtime enforces the configuration's seccomp profile and masked paths on the host's kernel. */
  readonly hostKernel: boolean;
}

const CONTAINER = 'function';
const BUNDLE = '/bundle';
const STATE = '/state';

const runscFlags = (platform: string, hasNetwork: boolean) => [
  `--root=${STATE}`,
  `--platform=${platform}`,
  // `sandbox`: a network stack of its own, over the one interface that it is given.
  `--network=${hasNetwork ? 'sandbox' : 'none'}`,
  '--ignore-cgroups',
  // Nothing but the sandbox changes its files.
  '--file-access=exclusive',
  '--file-access-mounts=exclusive',
];

/**
 * `runsc`: the function's system calls are served by a kernel in user space. A function is one process of that kernel, so a trial
 * with it finds the best platform of this host and version (`systrap` came after Debian's).
 */
export const GVISOR: OciRuntime = {
  name: 'gvisor',
  isolation: 'gvisor',
  program: '/usr/bin/runsc',
  from: 'runsc',
  overheadMiB: 64,
  threads: 512,
  platforms: ['systrap', 'ptrace'],
  run: (platform, hasNetwork) => [
    ...runscFlags(platform, hasNetwork),
    // The launcher finds in them how the container ended.
    `--debug-log=${STATE}/log.%COMMAND%`,
    '--debug-command=run,boot',
    'run',
    `--bundle=${BUNDLE}`,
    CONTAINER,
  ],
  kill: (platform, hasNetwork) => [...runscFlags(platform, hasNetwork), 'kill', CONTAINER],
  hostKernel: false,
};

/** `crun`: a container of the host's kernel, for trusted code. It leaves the container running, which the launcher then watches. */
export const CRUN: OciRuntime = {
  name: 'crun',
  isolation: 'container',
  program: '/usr/bin/crun',
  from: 'crun',
  overheadMiB: 16,
  threads: 16,
  platforms: ['linux'],
  run: () => [
    `--root=${STATE}`,
    '--cgroup-manager=disabled',
    'run',
    '--detach',
    `--pid-file=${STATE}/pid`,
    `--bundle=${BUNDLE}`,
    CONTAINER,
  ],
  kill: () => null,
  hostKernel: true,
};
