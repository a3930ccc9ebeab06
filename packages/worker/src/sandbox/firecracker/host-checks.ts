import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { failed, type HostCheck, passed } from '../../host/check.ts';

/** Where the kernel's own files are; others in tests. */
export interface HostRoots {
  readonly proc: string;
  readonly sys: string;
}

const HOST: HostRoots = { proc: '/proc', sys: '/sys' };

/** The oldest host kernel that Firecracker's makers test. */
const OLDEST_KERNEL = [5, 10] as const;
/** The jailer becomes ten times slower with so many mounts and ten starts at once. */
const MANY_MOUNTS = 500;

/**
 * What the makers of Firecracker advise for a host in production, one check each. None of it keeps the driver from running; each that fails
 * makes the wall between tenants thinner, or starts slower.
 *
 * @param paths files and directories that the jailer is given: nobody but root may change them
 */
export function adviseFirecrackerHost(paths: readonly string[], roots: HostRoots = HOST): HostCheck[] {
  return [
    kernelVersion(roots),
    vulnerabilities(roots),
    smt(roots),
    samePageMerging(roots),
    swap(roots),
    hugePages(roots),
    nxHugePages(roots),
    cgroupVersion(roots),
    mounts(roots),
    writablePaths(paths),
  ];
}

function read(...path: string[]): string | null {
  try {
    return readFileSync(join(...path), 'latin1').trim();
  } catch {
    return null;
  }
}

function kernelVersion({ proc }: HostRoots): HostCheck {
  const release = read(proc, 'sys/kernel/osrelease') ?? '';
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release)?.map(Number) ?? [];
  const [oldestMajor, oldestMinor] = OLDEST_KERNEL;
  const isNew = major !== undefined && (major > oldestMajor || (major === oldestMajor && minor! >= oldestMinor));
  if (isNew) return passed('host kernel', release);
  const reason = `${release === '' ? 'an unknown kernel' : release}: Firecracker is tested from ${OLDEST_KERNEL.join('.')} on`;
  return failed('host kernel', reason, 'Run a newer kernel; 5.10, 6.1 and 6.18 are the tested ones.');
}

function vulnerabilities({ sys }: HostRoots): HostCheck {
  const name = 'processor flaws';
  const directory = join(sys, 'devices/system/cpu/vulnerabilities');
  let flaws: string[];
  try {
    flaws = readdirSync(directory).sort();
  } catch {
    return failed(name, 'the kernel does not say which flaws it mitigates', 'Run a newer kernel.');
  }
  const open = flaws.filter((flaw) => /vulnerable|no microcode/i.test(read(directory, flaw) ?? ''));
  if (open.length === 0) return passed(name, 'the kernel mitigates those that it knows');
  const remedy = 'Load the newest microcode early at boot, and do not boot with mitigations=off.';
  return failed(name, `not, or not wholly, mitigated: ${open.join(', ')}`, remedy);
}

function smt({ sys }: HostRoots): HostCheck {
  const name = 'hyper-threads';
  if (read(sys, 'devices/system/cpu/smt/active') !== '1') return passed(name, 'off');
  const reason = 'two threads share a core, and so what flaws of the processor show of one tenant to the other';
  return failed(name, reason, 'Boot with nosmt, or write off to /sys/devices/system/cpu/smt/control.');
}

function samePageMerging({ sys }: HostRoots): HostCheck {
  const name = 'same-page merging';
  if ((read(sys, 'kernel/mm/ksm/run') ?? '0') === '0') return passed(name, 'off');
  const reason = 'equal pages of tenants are merged, and the time of a write shows which were';
  return failed(
    name,
    reason,
    'Write 2 to /sys/kernel/mm/ksm/run, which also undoes what is merged, then 0; stop ksmtuned.',
  );
}

function swap({ proc }: HostRoots): HostCheck {
  const areas = (read(proc, 'swaps') ?? '').split('\n').slice(1);
  const onDisk = areas.map((line) => line.split(/\s+/)[0]!).filter((path) => path !== '' && !/^\/dev\/zram/.test(path));
  if (onDisk.length === 0) return passed('swap', 'none on a disk');
  const reason = `${onDisk.join(', ')}: the memory of guests may be written to a disk, and stay there`;
  return failed(
    'swap',
    reason,
    'Turn it off (swapoff -a, and /etc/fstab), or encrypt it with a key made at each boot.',
  );
}

/** CoCore backs guests by ordinary pages: what is reserved for huge ones is lost to them. */
function hugePages({ proc }: HostRoots): HostCheck {
  const meminfo = read(proc, 'meminfo') ?? '';
  const value = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(meminfo)?.[1] ?? 0);
  const idleMiB = Math.floor((value('HugePages_Free') * value('Hugepagesize')) / 1024);
  if (idleMiB === 0) return passed('huge pages', 'none are reserved and idle');
  const reason = `${idleMiB} MiB are reserved and idle; machines of CoCore do not use them`;
  return failed('huge pages', reason, 'Set vm.nr_hugepages to what other programs need, or to 0.');
}

/** Since Linux 6.1, making a virtual machine waits for a change of control groups, unless one of these is set. */
function nxHugePages({ proc, sys }: HostRoots): HostCheck {
  const name = 'time to make a machine';
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(read(proc, 'sys/kernel/osrelease') ?? '')?.map(Number) ?? [];
  const isSlowKernel = major !== undefined && (major > 6 || (major === 6 && minor! >= 1));
  const isFavoured =
    /\scgroup2\s\S*\bfavordynmods\b/.test(read(proc, 'mounts') ?? '') ||
    /\bcgroup_favordynmods=(?:true|1|y|on)\b/.test(read(proc, 'cmdline') ?? '');
  if (!isSlowKernel || isFavoured || read(sys, 'module/kvm/parameters/nx_huge_pages') === 'never') {
    return passed(name, 'nothing slows it down');
  }
  const reason =
    'from Linux 6.1 on KVM moves a thread between control groups for each machine, which takes milliseconds';
  const isAffected = !/^not affected/i.test(read(sys, 'devices/system/cpu/vulnerabilities/itlb_multihit') ?? '');
  const favour = 'mount control groups with favordynmods (version 1: boot with cgroup_favordynmods=true)';
  const remedy = isAffected ? `M${favour.slice(1)}.` : `Load the module kvm with nx_huge_pages=never, or ${favour}.`;
  return failed(name, reason, remedy);
}

function cgroupVersion({ sys }: HostRoots): HostCheck {
  const name = 'control groups for snapshots';
  if (read(sys, 'fs/cgroup/cgroup.controllers') !== null) return passed(name, 'version 2');
  const reason = 'version 1: restoring a snapshot takes longer there';
  return failed(name, reason, 'Boot with systemd.unified_cgroup_hierarchy=1.');
}

function mounts({ proc }: HostRoots): HostCheck {
  const count = (read(proc, 'self/mountinfo') ?? '').split('\n').length;
  if (count < MANY_MOUNTS) return passed('mounts', `${count}`);
  const reason = `${count} file systems are mounted, and the jailer copies the list for each machine`;
  return failed('mounts', reason, 'Mount fewer, for one by not running containers beside CoCore.');
}

function writablePaths(paths: readonly string[]): HostCheck {
  const name = 'files of the jailer';
  const all = new Set(paths.flatMap(ancestry));
  const open = [...all].filter((path) => {
    const status = statSync(path, { throwIfNoEntry: false });
    if (status === undefined) return false;
    // In a sticky directory, others cannot replace what is not theirs.
    const isGuarded = status.isDirectory() && (status.mode & 0o1000) !== 0;
    return status.uid !== 0 || ((status.mode & 0o022) !== 0 && !isGuarded);
  });
  if (open.length === 0) return passed(name, 'only root can change them');
  const reason = `others than root can change ${open.join(', ')}, and what the jailer starts as root with it`;
  return failed(name, reason, 'Let root own them, and take write permission from group and others.');
}

/** The path and every directory above it. */
function ancestry(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [path] : [path, ...ancestry(parent)];
}
