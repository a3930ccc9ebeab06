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

/** The virtual machine monitors below `pid`. */
export const machinesOf = (pid: number): Process[] =>
  descendants(pid).filter(({ command }) => /^\S*qemu-system/.test(command));

export const isAlive = (pid: number): boolean => allProcesses().some((process) => process.pid === pid);
