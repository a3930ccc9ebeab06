import { readdirSync, readFileSync } from 'node:fs';
import type { Fleet } from './fleet.ts';
import type { Ledger } from './ledger.ts';

/**
 * What a fleet that has been stopped left on the host: processes and mounts that name its directory, and files of sandboxes in it. (What
 * names nothing is found by `scripts/leaks.ts`, for which nobody else may use the host.)
 */
export function leaksOf(fleet: Fleet, ledger: Ledger | null): string[] {
  return [
    ...processesOf(fleet.directory),
    ...mountsOf(fleet.directory),
    ...fleet.leftovers(),
    ...(ledger === null ? [] : sandboxesOf(fleet, ledger)),
  ];
}

export function processesOf(directory: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      const command = read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ');
      const env = read(`/proc/${pid}/environ`);
      return command.includes(directory) || env.includes(directory) ? [`process ${pid}: ${command.slice(0, 120)}`] : [];
    });
}

const mountsOf = (directory: string): string[] =>
  read('/proc/self/mounts')
    .split('\n')
    .filter((line) => line.includes(directory))
    .map((line) => `mount ${line.split(' ')[1]}`);

/** A daemon that stops in order ends its sandboxes first. */
function sandboxesOf({ daemons }: Fleet, ledger: Ledger): string[] {
  const orderly = new Set(daemons.flatMap(({ stoppedPids }) => stoppedPids));
  return ledger
    .left()
    .filter(({ pid }) => orderly.has(pid))
    .map(({ attemptId }) => `the sandbox of ${attemptId}`);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
