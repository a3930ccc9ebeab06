import { accessSync, constants } from 'node:fs';
import { failed, type HostCheck, passed } from '../../host/check.ts';
import { checkCgroups, checkProgram, checkRoot, firstLine } from '../../host/probes.ts';
import { isAtLeast, type Version, versionOf } from './tools.ts';

/** Since 1.8 the machine's devices are declared by ACPI, which is what the guest's kernel expects. */
export const OLDEST_VERSION = [1, 8] as const;

const INSTALL = 'Install a release of Firecracker, see docs/operations.md, or name its file in';

/** Programs of the launcher and of the scratch file systems, with the Debian package that has them. */
const PROGRAMS: readonly (readonly [string, string])[] = [
  ['unshare', 'util-linux'],
  ['setpriv', 'util-linux'],
  ['mount', 'mount'],
  ['mkfifo', 'coreutils'],
  ['mkfs.ext4', 'e2fsprogs'],
];

export interface ProbedTools {
  readonly firecracker: string | null;
  readonly jailer: string | null;
}

/** Whether this host can run Firecracker sandboxes. Every check is made, whatever the others say. */
export async function probeFirecrackerHost(tools: ProbedTools, kvm = '/dev/kvm'): Promise<HostCheck[]> {
  const checks = [
    checkRoot('the jailer is started by root, and each monitor then runs as a user of its own'),
    checkKvm(kvm),
    checkVersions(tools),
    checkCgroups(),
    ...PROGRAMS.map(([program, from]) => checkProgram(program, from)),
  ];
  return (await Promise.all(checks)).flat();
}

async function checkKvm(path: string): Promise<HostCheck> {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return passed('kvm', `${path} may be opened`);
  } catch (error) {
    const remedy = 'Turn on virtualization in the firmware, load the module kvm_intel or kvm_amd, or use another host.';
    return failed('kvm', `${path} may not be opened: ${firstLine(error)}`, remedy);
  }
}

async function checkVersions({ firecracker, jailer }: ProbedTools): Promise<HostCheck[]> {
  const one = await checkTool('firecracker', firecracker, 'COCORE_FIRECRACKER');
  const other = await checkTool('jailer', jailer, 'COCORE_JAILER');
  const checks = [one.check, other.check];
  if (one.version === null || other.version === null || one.version.text === other.version.text) return checks;
  const reason = `firecracker is ${one.version.text}, and its jailer ${other.version.text}`;
  return [...checks, failed('firecracker release', reason, 'Install both from one release.')];
}

async function checkTool(
  name: string,
  path: string | null,
  variable: string,
): Promise<{ check: HostCheck; version: Version | null }> {
  if (path === null) return { check: failed(name, 'is not found', `${INSTALL} ${variable}.`), version: null };
  try {
    const version = await versionOf(path);
    if (isAtLeast(version, OLDEST_VERSION)) return { check: passed(name, `${path}, ${version.text}`), version };
    const reason = `${path} is ${version.text}, older than ${OLDEST_VERSION.join('.')}`;
    return { check: failed(name, reason, `${INSTALL} ${variable}.`), version };
  } catch (error) {
    return {
      check: failed(name, `${path} does not run: ${firstLine(error)}`, `${INSTALL} ${variable}.`),
      version: null,
    };
  }
}
