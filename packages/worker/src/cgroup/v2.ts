import { join } from 'node:path';
import { codeOf, exists, groupPids, makeGroup, put, readOrNull, removeGroup, subgroups, until } from './base.ts';
import {
  type Cgroup,
  type CgroupHierarchy,
  type CgroupLimits,
  type CgroupUsage,
  keyedValue,
  singleValue,
} from './cgroup.ts';

const CONTROLLERS = ['memory', 'cpu', 'pids'] as const;
const CPU_PERIOD_US = 100_000;

class CgroupV2 implements Cgroup {
  readonly name: string;
  readonly #path: string;
  readonly #kill: (pid: number) => void;

  constructor(name: string, path: string, kill: (pid: number) => void) {
    this.name = name;
    this.#path = path;
    this.#kill = kill;
  }

  get procsFiles(): string[] {
    return [join(this.#path, 'cgroup.procs')];
  }

  async limit(limits: CgroupLimits): Promise<void> {
    await put(join(this.#path, 'memory.max'), String(limits.memoryBytes));
    const swap = join(this.#path, 'memory.swap.max');
    if (await exists(swap)) await put(swap, '0');
    await put(join(this.#path, 'memory.oom.group'), '1');
    await put(join(this.#path, 'pids.max'), String(limits.pids));
    await put(join(this.#path, 'cpu.max'), `${Math.round(limits.cpus * CPU_PERIOD_US)} ${CPU_PERIOD_US}`);
  }

  async usage(): Promise<CgroupUsage> {
    const cpuUs = keyedValue((await readOrNull(join(this.#path, 'cpu.stat'))) ?? '', 'usage_usec');
    // `memory.peak` came with Linux 5.19.
    const peak = singleValue((await readOrNull(join(this.#path, 'memory.peak'))) ?? '');
    return { cpuMs: cpuUs === null ? null : cpuUs / 1000, memoryPeakBytes: peak };
  }

  async oomKills(): Promise<number | null> {
    return keyedValue((await readOrNull(join(this.#path, 'memory.events'))) ?? '', 'oom_kill');
  }

  async freeze(frozen: boolean): Promise<void> {
    const path = join(this.#path, 'cgroup.freeze');
    if (!(await exists(path))) return;
    await put(path, frozen ? '1' : '0');
    if (!frozen) return;
    await until('freezing', async () => {
      const events = await readOrNull(join(this.#path, 'cgroup.events'));
      return events === null || keyedValue(events, 'frozen') === 1;
    });
  }

  async pids(): Promise<number[]> {
    return groupPids(this.#path);
  }

  async killAll(): Promise<void> {
    // `cgroup.kill` came with Linux 5.14; it also reaches frozen processes.
    const all = join(this.#path, 'cgroup.kill');
    const atOnce = await exists(all);
    await until('killing a control group', async () => {
      const pids = await this.pids();
      if (pids.length === 0) return true;
      if (atOnce) await put(all, '1');
      else {
        for (const pid of pids) this.#kill(pid);
        await this.freeze(false);
      }
      return false;
    });
  }

  async remove(): Promise<void> {
    await this.killAll();
    await until('removing a control group', () => removeGroup(this.#path));
  }
}

export class CgroupHierarchyV2 implements CgroupHierarchy {
  readonly version = 2;
  readonly #root: string;
  readonly #kill: (pid: number) => void;

  constructor(root: string, kill: (pid: number) => void) {
    this.#root = root;
    this.#kill = kill;
  }

  get #run(): string {
    return join(this.#root, 'cocore', 'run');
  }

  async create(name: string): Promise<Cgroup> {
    await makeGroup(this.#run);
    // A group has only the controllers that each of its ancestors passes down.
    for (const path of [this.#root, join(this.#root, 'cocore'), this.#run]) {
      const control = join(path, 'cgroup.subtree_control');
      const on = ((await readOrNull(control)) ?? '').trim().split(' ');
      const wanted = CONTROLLERS.filter((controller) => !on.includes(controller));
      if (wanted.length > 0) await put(control, wanted.map((controller) => `+${controller}`).join(' '));
    }
    await makeGroup(join(this.#run, name));
    return this.open(name);
  }

  async list(): Promise<string[]> {
    return (await subgroups(this.#run)).sort();
  }

  open(name: string): Cgroup {
    return new CgroupV2(name, join(this.#run, name), this.#kill);
  }

  async tidy(): Promise<void> {
    if (await removeGroup(this.#run)) await removeGroup(join(this.#root, 'cocore'));
  }
}

/** Controllers that the hierarchy's root offers. */
export async function offeredControllers(root: string): Promise<string[]> {
  try {
    return ((await readOrNull(join(root, 'cgroup.controllers'))) ?? '').trim().split(' ');
  } catch (error) {
    if (codeOf(error) === 'EACCES') return [];
    throw error;
  }
}

export const missingControllers = (offered: readonly string[]): string[] =>
  CONTROLLERS.filter((name) => !offered.includes(name));
