import { readdirSync, readFileSync } from 'node:fs';

export interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
}

export function allProcesses(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        if (state === 'Z' || state === 'X') return [];
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
        return [{ pid: Number(name), parent: Number(parent), command }];
      } catch {
        return [];
      }
    });
}

/** Every living process below `pid`, not itself. */
export function descendants(pid: number): Process[] {
  const all = allProcesses();
  const found: Process[] = [];
  const todo = [pid];
  for (let parent = todo.pop(); parent !== undefined; parent = todo.pop()) {
    for (const process of all.filter((candidate) => candidate.parent === parent)) {
      found.push(process);
      todo.push(process.pid);
    }
  }
  return found;
}

/** One sandbox: the control group's name after the daemon's tag, and its processes. */
export interface LiveSandbox {
  readonly name: string;
  readonly processes: readonly Process[];
}

/** The sandboxes of attempts below `pid`, whatever driver made them; what is made ready for later does not count. */
export function sandboxesOf(pid: number): LiveSandbox[] {
  const found = new Map<string, Process[]>();
  for (const process of descendants(pid)) {
    const name = sandboxOf(process.pid);
    if (name === null || /^(?:pool|template)_/.test(name)) continue;
    found.set(name, [...(found.get(name) ?? []), process]);
  }
  return [...found].map(([name, processes]) => ({ name, processes }));
}

function sandboxOf(pid: number): string | null {
  try {
    return /\/cocore\/run\/\w+\.(\w+)/.exec(readFileSync(`/proc/${pid}/cgroup`, 'latin1'))?.[1] ?? null;
  } catch {
    return null;
  }
}

/** Whether any process of the sandbox still lives. */
export const isSandboxAlive = ({ processes }: LiveSandbox): boolean => processes.some(({ pid }) => isAlive(pid));

/** Ends all of it, as a host does that runs out of memory. */
export function killSandbox({ processes }: LiveSandbox): void {
  for (const { pid } of processes) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It died with another one of them.
    }
  }
}

/** The machine monitor of a sandbox that is a QEMU machine. */
export function monitorOf({ name, processes }: LiveSandbox): Process {
  const monitor = processes.find(({ command }) => /^\S*qemu-system/.test(command));
  if (monitor === undefined) throw new Error(`${name} has no machine monitor`);
  return monitor;
}

export const isAlive = (pid: number): boolean => allProcesses().some((process) => process.pid === pid);
