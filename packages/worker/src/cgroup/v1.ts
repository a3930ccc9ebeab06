import { join } from 'node:path';
import { exists, groupPids, makeGroup, put, readOrNull, removeGroup, subgroups, until } from './base.ts';
import {
  type Cgroup,
  type CgroupHierarchy,
  type CgroupLimits,
  type CgroupUsage,
  keyedValue,
  singleValue,
} from './cgroup.ts';

const CONTROLLERS = ['memory', 'cpu', 'cpuacct', 'pids', 'freezer'] as const;
type Controller = (typeof CONTROLLERS)[number];

const CPU_PERIOD_US = 100_000;

/** One directory for each controller, all with the same name. */
class CgroupV1 implements Cgroup {
  readonly name: string;
  readonly #paths: Map<Controller, string>;
  readonly #kill: (pid: number) => void;

  constructor(name: string, paths: Map<Controller, string>, kill: (pid: number) => void) {
    this.name = name;
    this.#paths = paths;
    this.#kill = kill;
  }

  get procsFiles(): string[] {
    return [...this.#distinct()].map((path) => join(path, 'cgroup.procs'));
  }

  /** `cpu` and `cpuacct` are one directory under two names on many hosts. */
  #distinct(): Set<string> {
    return new Set(this.#paths.values());
  }

  #file(controller: Controller, file: string): string | null {
    const path = this.#paths.get(controller);
    return path === undefined ? null : join(path, file);
  }

  async #read(controller: Controller, file: string): Promise<string | null> {
    const path = this.#file(controller, file);
    return path === null ? null : readOrNull(path);
  }

  async limit(limits: CgroupLimits): Promise<void> {
    const write = async (controller: Controller, file: string, value: number) => {
      const path = this.#file(controller, file);
      if (path !== null) await put(path, String(value));
    };
    await write('memory', 'memory.limit_in_bytes', limits.memoryBytes);
    // Memory and swap together; absent where the kernel does not account swap.
    const swap = this.#file('memory', 'memory.memsw.limit_in_bytes');
    if (swap !== null && (await exists(swap))) await put(swap, String(limits.memoryBytes));
    await write('pids', 'pids.max', limits.pids);
    await write('cpu', 'cpu.cfs_period_us', CPU_PERIOD_US);
    await write('cpu', 'cpu.cfs_quota_us', Math.round(limits.cpus * CPU_PERIOD_US));
  }

  async usage(): Promise<CgroupUsage> {
    const cpuNs = singleValue((await this.#read('cpuacct', 'cpuacct.usage')) ?? '');
    const peak = singleValue((await this.#read('memory', 'memory.max_usage_in_bytes')) ?? '');
    return { cpuMs: cpuNs === null ? null : cpuNs / 1e6, memoryPeakBytes: peak };
  }

  async oomKills(): Promise<number | null> {
    // The line came with Linux 4.13.
    return keyedValue((await this.#read('memory', 'memory.oom_control')) ?? '', 'oom_kill');
  }

  async freeze(frozen: boolean): Promise<void> {
    const path = this.#file('freezer', 'freezer.state');
    if (path === null || !(await exists(path))) return;
    const state = frozen ? 'FROZEN' : 'THAWED';
    await put(path, state);
    if (frozen) await until('freezing', async () => (await readOrNull(path))?.trim() !== 'FREEZING');
  }

  async pids(): Promise<number[]> {
    const lists = await Promise.all([...this.#distinct()].map(groupPids));
    return [...new Set(lists.flat())];
  }

  async killAll(): Promise<void> {
    await until('killing a control group', async () => {
      const pids = await this.pids();
      for (const pid of pids) this.#kill(pid);
      // A frozen process dies only when it is thawed.
      if (pids.length > 0) await this.freeze(false);
      return pids.length === 0;
    });
  }

  async remove(): Promise<void> {
    await this.killAll();
    for (const path of this.#distinct()) await until('removing a control group', () => removeGroup(path));
  }
}

export class CgroupHierarchyV1 implements CgroupHierarchy {
  readonly version = 1;
  readonly #root: string;
  readonly #controllers: readonly Controller[];
  readonly #kill: (pid: number) => void;

  constructor(root: string, controllers: readonly Controller[], kill: (pid: number) => void) {
    this.#root = root;
    this.#controllers = controllers;
    this.#kill = kill;
  }

  static async open(root: string, kill: (pid: number) => void): Promise<CgroupHierarchyV1> {
    const found = await Promise.all(
      CONTROLLERS.map(async (name) => ((await exists(join(root, name, 'cgroup.procs'))) ? [name] : [])),
    );
    return new CgroupHierarchyV1(root, found.flat(), kill);
  }

  get missing(): string[] {
    return CONTROLLERS.filter((name) => !this.#controllers.includes(name));
  }

  #run(controller: Controller): string {
    return join(this.#root, controller, 'cocore', 'run');
  }

  async create(name: string): Promise<Cgroup> {
    for (const controller of this.#controllers) await makeGroup(join(this.#run(controller), name));
    return this.open(name);
  }

  async list(): Promise<string[]> {
    const names = await Promise.all(this.#controllers.map((controller) => subgroups(this.#run(controller))));
    return [...new Set(names.flat())].sort();
  }

  open(name: string): Cgroup {
    const paths = this.#controllers.map((controller) => [controller, join(this.#run(controller), name)] as const);
    return new CgroupV1(name, new Map(paths), this.#kill);
  }

  async tidy(): Promise<void> {
    for (const controller of this.#controllers) {
      if (await removeGroup(this.#run(controller))) await removeGroup(join(this.#root, controller, 'cocore'));
    }
  }
}
