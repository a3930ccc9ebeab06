import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { openCgroups } from '../cgroup/open.ts';
import { failed, type HostCheck, passed } from './check.ts';

/** Checks that more than one driver makes. */

export const firstLine = (error: unknown): string =>
  error instanceof Error ? error.message.split('\n')[0]! : String(error);

/** @param why root is needed, and what is not root all the same */
export async function checkRoot(why: string): Promise<HostCheck> {
  if (process.platform !== 'linux') return failed('root', `this is ${process.platform}, not Linux`, 'Run it on Linux.');
  if (process.geteuid?.() === 0) return passed('root', 'runs as root');
  return failed('root', why, 'Run it with sudo.');
}

/** @param from the Debian package that has it */
export async function checkProgram(program: string, from: string): Promise<HostCheck> {
  const env = { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/usr/bin:/sbin:/bin` };
  try {
    await promisify(execFile)('/bin/sh', ['-c', 'command -v "$1"', 'sh', program], { env });
    return passed(program, 'is installed');
  } catch {
    return failed(program, 'is not installed', `Install the package ${from}.`);
  }
}

export async function checkCgroups(): Promise<HostCheck> {
  try {
    const { version } = await openCgroups();
    return passed('control groups', `version ${version}, with memory, cpu and pids`);
  } catch (error) {
    const remedy = 'Mount control groups with the memory, cpu and pids controllers.';
    return failed('control groups', firstLine(error), remedy);
  }
}
