import { countBelow } from './count-below.ts';

/** Orders are kept in runs of at most so many: taking one out moves no more. */
const RUN_LENGTH = 512;

/** Where attempts of one project stand in its queue: the higher priority before the lower, and of one priority the earlier before the later. */
export class Positions {
  /** By priority; runs of orders, all ascending, none empty. */
  readonly #runs = new Map<number, number[][]>();

  add(priority: number, order: number): void {
    let runs = this.#runs.get(priority);
    if (runs === undefined) this.#runs.set(priority, (runs = []));
    const last = runs.at(-1);
    if (last === undefined || (last.length === RUN_LENGTH && last.at(-1)! < order)) runs.push([order]);
    else if (last.at(-1)! < order) last.push(order);
    else this.#insert(runs, order);
  }

  /** One that comes back to its place: its run may grow a little longer than others. */
  #insert(runs: readonly number[][], order: number): void {
    const run = runs[runOf(runs, order)]!;
    run.splice(
      countBelow(run.length, (place) => run[place]! < order),
      0,
      order,
    );
  }

  delete(priority: number, order: number): void {
    const runs = this.#runs.get(priority)!;
    const at = runOf(runs, order);
    const run = runs[at]!;
    run.splice(
      countBelow(run.length, (place) => run[place]! < order),
      1,
    );
    if (run.length > 0) return;
    runs.splice(at, 1);
    if (runs.length === 0) this.#runs.delete(priority);
  }

  /** Counts from 1. */
  of(priority: number, order: number): number {
    let before = 0;
    for (const [other, runs] of this.#runs) if (other > priority) for (const run of runs) before += run.length;
    const runs = this.#runs.get(priority)!;
    const at = runOf(runs, order);
    for (let earlier = 0; earlier < at; earlier += 1) before += runs[earlier]!.length;
    const run = runs[at]!;
    return before + countBelow(run.length, (place) => run[place]! < order) + 1;
  }
}

const runOf = (runs: readonly (readonly number[])[], order: number): number =>
  countBelow(runs.length, (at) => runs[at]!.at(-1)! < order);
