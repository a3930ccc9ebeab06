import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { promisify } from 'node:util';
import { openCgroups } from '../../cgroup/open.ts';
import { failed, type HostCheck, passed } from '../../host/check.ts';
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

const messageOf = (error: unknown) => (error instanceof Error ? error.message.split('\n')[0]! : String(error));

/** Whether this host can run Firecracker sandboxes. Every check is made, whatever the others say. */
export async function probeFirecrackerHost(tools: ProbedTools, kvm = '/dev/kvm'): Promise<HostCheck[]> {
  const checks = [checkUser(), checkKvm(kvm), checkVersions(tools), checkCgroups(), ...PROGRAMS.map(checkProgram)];
  return (await Promise.all(checks)).flat();
}

async function checkUser(): Promise<HostCheck> {
  if (process.platform !== 'linux') return failed('root', `this is ${process.platform}, not Linux`, 'Run it on Linux.');
  if (process.geteuid?.() === 0) return passed('root', 'runs as root; no virtual machine monitor does');
  return failed('root', 'the jailer is started by root, and each monitor then runs as a user of its own', 'Use sudo.');
}

async function checkKvm(path: string): Promise<HostCheck> {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return passed('kvm', `${path} may be opened`);
  } catch (error) {
    const remedy = 'Turn on virtualization in the firmware, load the module kvm_intel or kvm_amd, or use another host.';
    return failed('kvm', `${path} may not be opened: ${messageOf(error)}`, remedy);
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
      check: failed(name, `${path} does not run: ${messageOf(error)}`, `${INSTALL} ${variable}.`),
      version: null,
    };
  }
}

async function checkProgram([program, from]: readonly [string, string]): Promise<HostCheck> {
  const { PATH = '' } = process.env;
  try {
    const env = { PATH: `${PATH}:/usr/sbin:/usr/bin:/sbin:/bin` };
    await promisify(execFile)('/bin/sh', ['-c', 'command -v "$1"', 'sh', program], { env });
    return passed(program, 'is installed');
  } catch {
    return failed(program, 'is not installed', `Install the package ${from}.`);
  }
}

async function checkCgroups(): Promise<HostCheck> {
  try {
    const { version } = await openCgroups();
    return passed('control groups', `version ${version}, with memory, cpu and pids`);
  } catch (error) {
    const remedy = 'Mount control groups with the memory, cpu and pids controllers.';
    return failed('control groups', messageOf(error), remedy);
  }
}
