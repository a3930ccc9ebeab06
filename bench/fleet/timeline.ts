/** What happens when, in simulated milliseconds: the next by time, and of one time the one that was planned first. */
export class Timeline {
  readonly #times: number[] = [];
  readonly #orders: number[] = [];
  readonly #acts: (() => void)[] = [];
  #order = 0;
  nowMs = 0;

  at(timeMs: number, act: () => void): void {
    this.#order += 1;
    let hole = this.#times.length;
    while (hole > 0) {
      const above = (hole - 1) >> 1;
      if (this.#times[above]! <= timeMs) break;
      this.#move(above, hole);
      hole = above;
    }
    this.#put(hole, timeMs, this.#order, act);
  }

  after(delayMs: number, act: () => void): void {
    this.at(this.nowMs + delayMs, act);
  }

  /** Lets happen all that is planned until then, and what it plans. */
  runUntil(endMs: number): void {
    while (this.#times.length > 0 && this.#times[0]! <= endMs) {
      this.nowMs = this.#times[0]!;
      this.#take()();
    }
    this.nowMs = endMs;
  }

  #take(): () => void {
    const first = this.#acts[0]!;
    const timeMs = this.#times.pop()!;
    const order = this.#orders.pop()!;
    const act = this.#acts.pop()!;
    const length = this.#times.length;
    if (length === 0) return first;
    let hole = 0;
    for (;;) {
      let below = 2 * hole + 1;
      if (below >= length) break;
      if (below + 1 < length && this.#isBefore(below + 1, this.#times[below]!, this.#orders[below]!)) below += 1;
      if (!this.#isBefore(below, timeMs, order)) break;
      this.#move(below, hole);
      hole = below;
    }
    this.#put(hole, timeMs, order, act);
    return first;
  }

  #isBefore(at: number, timeMs: number, order: number): boolean {
    return this.#times[at]! < timeMs || (this.#times[at]! === timeMs && this.#orders[at]! < order);
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#times[from]!, this.#orders[from]!, this.#acts[from]!);
  }

  #put(at: number, timeMs: number, order: number, act: () => void): void {
    this.#times[at] = timeMs;
    this.#orders[at] = order;
    this.#acts[at] = act;
  }
}
