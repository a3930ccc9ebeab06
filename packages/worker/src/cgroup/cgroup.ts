/**
 * Control groups, version 1 and 2 behind one interface. Every sandbox has one group, `cocore/run/<daemon>.<name>`, through which
 * it is limited, metered and killed.
 */
export interface CgroupLimits {
  readonly memoryBytes: number;
  readonly pids: number;
  /** CPU time per wall time: 1 is one whole CPU. */
  readonly cpus: number;
}

/** Null is "this host does not measure it". */
export interface CgroupUsage {
  readonly cpuMs: number | null;
  readonly memoryPeakBytes: number | null;
}

export interface Cgroup {
  readonly name: string;
  /** Files that a process writes its own id to in order to join; one for each hierarchy. */
  readonly procsFiles: readonly string[];
  limit(limits: CgroupLimits): Promise<void>;
  usage(): Promise<CgroupUsage>;
  /** How many of its processes the kernel killed because the group met its memory limit; null is "not counted here". */
  oomKills(): Promise<number | null>;
  freeze(frozen: boolean): Promise<void>;
  pids(): Promise<number[]>;
  /** Kills every process of the group, and resolves when none is left. */
  killAll(): Promise<void>;
  /** Kills what is left and removes the group. Safe to repeat. */
  remove(): Promise<void>;
}

export interface CgroupHierarchy {
  readonly version: 1 | 2;
  /** Makes the group `cocore/run/<name>`; one that exists is taken. */
  create(name: string): Promise<Cgroup>;
  /** The names of the groups under `cocore/run`. */
  list(): Promise<string[]>;
  /** A group that exists (or once did), to be killed and removed. */
  open(name: string): Cgroup;
  /** Removes `cocore/run` and `cocore` where they are empty. */
  tidy(): Promise<void>;
}

// --- Reading what the kernel writes

/** One value of a file of `key value` lines, such as `cpu.stat`. */
export function keyedValue(text: string, key: string): number | null {
  const match = new RegExp(`^${key} (\\d+)$`, 'm').exec(text);
  return match === null ? null : Number(match[1]);
}

export function singleValue(text: string): number | null {
  return /^\d+\n?$/.test(text) ? Number(text) : null;
}

export function pidList(text: string): number[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(Number);
}
