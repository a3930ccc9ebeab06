import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { openCgroups } from '../../cgroup/open.ts';
import { failed, type HostCheck, passed } from '../../host/check.ts';
import { hostTscKhz } from './tsc.ts';

const run = promisify(execFile);
const messageOf = (error: unknown) => (error instanceof Error ? error.message.split('\n')[0]! : String(error));

/** Programs of the launcher and the template, with the Debian package that has them. */
const PROGRAMS: readonly (readonly [string, string])[] = [
  ['unshare', 'util-linux'],
  ['setpriv', 'util-linux'],
  ['prlimit', 'util-linux'],
  ['pivot_root', 'util-linux'],
  ['mount', 'mount'],
  ['mkfs.ext4', 'e2fsprogs'],
];

/** Whether this host can run QEMU sandboxes. Every check is made, whatever the others say. */
export async function probeQemuHost(qemu: string): Promise<HostCheck[]> {
  return Promise.all([checkUser(), checkQemu(qemu), ...PROGRAMS.map(checkProgram), checkCgroups(), checkTsc()]);
}

async function checkUser(): Promise<HostCheck> {
  if (process.platform !== 'linux') return failed('root', `this is ${process.platform}, not Linux`, 'Run it on Linux.');
  if (process.geteuid?.() === 0) return passed('root', 'runs as root');
  return failed('root', 'sandboxes are made by root, and each then runs as a user of its own', 'Run it with sudo.');
}

async function checkQemu(qemu: string): Promise<HostCheck> {
  try {
    const { stdout } = await run(qemu, ['-machine', 'help'], { timeout: 10_000 });
    if (/^microvm\s/m.test(stdout)) return passed('qemu', `${qemu} has the machine type microvm`);
    return failed('qemu', `${qemu} has no machine type microvm`, 'Install QEMU 4.2 or later (qemu-system-x86).');
  } catch (error) {
    return failed('qemu', `${qemu} does not run: ${messageOf(error)}`, 'Install the package qemu-system-x86.');
  }
}

async function checkProgram([program, from]: readonly [string, string]): Promise<HostCheck> {
  const { PATH = '' } = process.env;
  try {
    await run('/bin/sh', ['-c', 'command -v "$1"', 'sh', program], {
      env: { PATH: `${PATH}:/usr/sbin:/usr/bin:/sbin:/bin` },
    });
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
    return failed(
      'control groups',
      messageOf(error),
      'Mount control groups with the memory, cpu and pids controllers.',
    );
  }
}

/** Not finding it is no reason to refuse: a machine that hangs at boot is started once more. */
async function checkTsc(): Promise<HostCheck> {
  const khz = await hostTscKhz();
  if (khz !== null) return passed('time stamp counter', `${khz} kHz`);
  return passed('time stamp counter', 'its rate is not known: boots may hang now and then');
}
