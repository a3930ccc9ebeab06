import { CocoreError, EXCHANGE_DIRECTORY } from '@cocore/protocol';
import { z } from 'zod';
import type { OciRuntime } from './runtimes.ts';

/** What the driver changes of a task's configuration; the rest goes through as it is. */
const TaskConfig = z.looseObject({
  process: z.looseObject({}),
  root: z.looseObject({}),
  mounts: z.array(z.looseObject({ destination: z.string(), type: z.string() })),
  linux: z.looseObject({
    namespaces: z.array(z.looseObject({ type: z.string() })),
    maskedPaths: z.array(z.string()),
  }),
});

/**
 * Of the host's /proc and /sys: what tells which host this is and what else it does, and no program needs. The guest of a microVM has the same
 * files, which tell of the guest only.
 */
const HOST_PATHS = [
  ...`buddyinfo cgroups cmdline config.gz consoles crypto devices diskstats dma driver dynamic_debug execdomains fb iomem ioports kallsyms
    key-users kmsg kpagecgroup kpagecount kpageflags locks mdstat misc modules mtrr pagetypeinfo partitions pressure schedstat slabinfo
    softirqs swaps sys/kernel/random/boot_id tty vmallocinfo vmstat zoneinfo`
    .split(/\s+/)
    .map((name) => `/proc/${name}`),
  ...'block bus class/dmi dev devices/pci0000:00 devices/virtual/block devices/virtual/dmi fs hypervisor kernel module power'
    .split(' ')
    .map((name) => `/sys/${name}`),
];

/** The launcher, where the runtime sees it: it tells the keeper that the container has started. */
const STARTED_HOOK = { path: '/launch', args: ['oci-launch', 'started'] };

/**
 * The configuration for a runtime in the launcher's jail, made of the one for the guest of a microVM: the same process, limits, capabilities
 * and seccomp profile, over the jail's root and code. The user and PID namespaces are those that the runtime itself is in, and so is the network
 * namespace where there is a network.
 *
 * @throws CocoreError `internal` when the task is none
 */
export function hostConfig(task: Uint8Array, runtime: OciRuntime): string {
  let config: z.infer<typeof TaskConfig>;
  try {
    config = TaskConfig.parse(JSON.parse(Buffer.from(task).toString('utf8')));
  } catch (cause) {
    throw new CocoreError('internal', 'a task is not an OCI configuration', { cause });
  }
  const { linux } = config;
  const { cgroupsPath: _cgroup, resources: _resources, ...rest } = linux;
  const namespaces = linux.namespaces
    .filter(({ type }) => type !== 'user' && type !== 'pid')
    .map((namespace) => ('path' in namespace ? { ...namespace, path: OWN_NETWORK } : namespace));
  const mounts = config.mounts.map((mount) => {
    const source = SOURCES[mount.destination];
    return source === undefined ? mount : { ...mount, source };
  });
  return JSON.stringify({
    ...config,
    root: { ...config.root, path: '/rootfs' },
    mounts: runtime.hostKernel ? mounts : [...mounts, TMP_ON_DISK],
    linux: {
      ...rest,
      namespaces,
      maskedPaths: runtime.hostKernel ? [...linux.maskedPaths, ...HOST_PATHS] : linux.maskedPaths,
    },
    ...(runtime.hostKernel ? {} : { hooks: { poststart: [STARTED_HOOK] } }),
  });
}

/** The runtime's own; named, because runsc makes a new one where none is. */
const OWN_NETWORK = '/proc/self/ns/net';

/** What the container sees, and where it is in the jail. */
const SOURCES: Readonly<Record<string, string>> = { '/function': '/code', [EXCHANGE_DIRECTORY]: '/scratch/exchange' };

/** gVisor puts a file system in memory over an empty /tmp, unless something is mounted there. */
const TMP_ON_DISK = {
  destination: '/tmp',
  type: 'bind',
  source: '/rootfs/tmp',
  options: ['bind', 'rw', 'nosuid', 'nodev'],
};
