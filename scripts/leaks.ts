import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * What CoCore could leave behind on a host, as sets of names: compared before and after a suite.
 */
export interface HostState {
  readonly processes: ReadonlySet<string>;
  readonly mounts: ReadonlySet<string>;
  readonly cgroups: ReadonlySet<string>;
  readonly files: ReadonlySet<string>;
  readonly sockets: ReadonlySet<string>;
}

const read = (path: string) => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};

/** Processes that belong to CoCore or to a sandbox of it, by what they run. */
const OURS = /qemu-system|packages\/(?:control|worker|cli)\/|cocore|firecracker|jailer/;

function processes(): Set<string> {
  const found = new Set<string>();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    if (Number(pid) === process.pid || Number(pid) === process.ppid) continue;
    const command = read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
    if (!OURS.test(command) || /scripts\/test\.ts|with-node\.sh/.test(command)) continue;
    // A zombie has no command line; what is left is alive.
    found.add(`process ${pid}: ${command.slice(0, 160)}`);
  }
  return found;
}

function mounts(): Set<string> {
  const lines = read('/proc/self/mounts').split('\n');
  return new Set(lines.filter((line) => /cocore/.test(line)).map((line) => `mount ${line.split(' ')[1]}`));
}

/** Control groups named `cocore…` anywhere in a hierarchy, to a bounded depth. */
function cgroups(directory = '/sys/fs/cgroup', depth = 0): Set<string> {
  const found = new Set<string>();
  if (depth > 6) return found;
  let names;
  try {
    names = readdirSync(directory, { withFileTypes: true });
  } catch {
    return found;
  }
  for (const entry of names) {
    if (!entry.isDirectory()) continue;
    const path = join(directory, entry.name);
    // The empty parent may stay; what is one attempt's must go.
    if (/cocore/.test(path) && !/cocore$/.test(path)) found.add(`cgroup ${path}`);
    for (const deeper of cgroups(path, depth + 1)) found.add(deeper);
  }
  return found;
}

function files(): Set<string> {
  const found = new Set<string>();
  for (const directory of ['/tmp', '/run', '/dev/shm']) {
    let names: string[] = [];
    try {
      names = readdirSync(directory);
    } catch {
      continue;
    }
    for (const name of names) if (/^cocore|^qemu/.test(name)) found.add(`file ${join(directory, name)}`);
  }
  return found;
}

/** TCP ports that are listened on, and Unix sockets (also abstract ones, such as locks) with a name of CoCore's. */
function sockets(): Set<string> {
  const found = new Set<string>();
  for (const line of ['tcp', 'tcp6'].flatMap((family) => read(`/proc/net/${family}`).split('\n'))) {
    const [, local, , state] = line.trim().split(/\s+/);
    if (state === '0A') found.add(`socket listening on port ${Number.parseInt(local!.split(':')[1]!, 16)}`);
  }
  for (const line of read('/proc/net/unix').split('\n')) {
    const name = line.trim().split(/\s+/)[7];
    if (name !== undefined && /cocore/.test(name)) found.add(`socket ${name}`);
  }
  return found;
}

export function snapshot(): HostState {
  return { processes: processes(), mounts: mounts(), cgroups: cgroups(), files: files(), sockets: sockets() };
}

/** What is there now and was not before, after giving the kernel a moment to reap and remove. */
export async function leaks(before: HostState): Promise<string[]> {
  for (let tries = 0; ; tries += 1) {
    const now = snapshot();
    const left = (['processes', 'mounts', 'cgroups', 'files', 'sockets'] as const).flatMap((kind) => [
      ...now[kind].difference(before[kind]),
    ]);
    if (left.length === 0 || tries === 20) return left;
    await sleep(250);
  }
}
