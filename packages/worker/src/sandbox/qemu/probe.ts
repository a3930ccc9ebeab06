import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { failed, type HostCheck, passed } from '../../host/check.ts';
import { checkCgroups, checkProgram, checkRoot, firstLine } from '../../host/probes.ts';
import { hostTscKhz } from './tsc.ts';

const run = promisify(execFile);

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
  return Promise.all([
    checkRoot('sandboxes are made by root, and each then runs as a user of its own'),
    checkQemu(qemu),
    ...PROGRAMS.map(([program, from]) => checkProgram(program, from)),
    checkCgroups(),
    checkTsc(),
  ]);
}

async function checkQemu(qemu: string): Promise<HostCheck> {
  try {
    const { stdout } = await run(qemu, ['-machine', 'help'], { timeout: 10_000 });
    if (/^microvm\s/m.test(stdout)) return passed('qemu', `${qemu} has the machine type microvm`);
    return failed('qemu', `${qemu} has no machine type microvm`, 'Install QEMU 4.2 or later (qemu-system-x86).');
  } catch (error) {
    return failed('qemu', `${qemu} does not run: ${firstLine(error)}`, 'Install the package qemu-system-x86.');
  }
}

/** Not finding it is no reason to refuse: a machine that hangs at boot is started once more. */
async function checkTsc(): Promise<HostCheck> {
  const khz = await hostTscKhz();
  if (khz !== null) return passed('time stamp counter', `${khz} kHz`);
  return passed('time stamp counter', 'its rate is not known: boots may hang now and then');
}
