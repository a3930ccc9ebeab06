import type { FleetFunction } from './make.ts';

/** CPU milliseconds and MiB milliseconds. */
interface Work {
  cpus: number;
  memory: number;
}

/**
 * What no scheduler could surpass: as if all that waits were a liquid that any worker could take any drop of, at once and without a start. Per resource;
 * what a schedule does is at most the smaller of the two.
 */
export class Fluid {
  readonly #waiting: Work = { cpus: 0, memory: 0 };
  readonly #possible: Work = { cpus: 0, memory: 0 };
  readonly #done: Work = { cpus: 0, memory: 0 };

  asked(fn: FleetFunction, runMs: number): void {
    this.#waiting.cpus += fn.cpus * runMs;
    this.#waiting.memory += fn.memoryMiB * runMs;
  }

  /** Work that was not lost. */
  done(fn: FleetFunction, runMs: number): void {
    this.#done.cpus += fn.cpus * runMs;
    this.#done.memory += fn.memoryMiB * runMs;
  }

  pass(ms: number, online: { readonly cpus: number; readonly memoryMiB: number }): void {
    this.#flow('cpus', online.cpus * ms);
    this.#flow('memory', online.memoryMiB * ms);
  }

  shares(): { readonly cpus: number; readonly memory: number } {
    return { cpus: this.#done.cpus / this.#possible.cpus, memory: this.#done.memory / this.#possible.memory };
  }

  #flow(of: keyof Work, most: number): void {
    const flowed = Math.min(most, this.#waiting[of]);
    this.#waiting[of] -= flowed;
    this.#possible[of] += flowed;
  }
}
