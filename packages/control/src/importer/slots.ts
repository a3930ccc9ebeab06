/** A place among those that run at the same time. */
export interface Slot extends Disposable {
  /** From 0; no other holder has it. */
  readonly index: number;
}

/** A fixed number of places, given in turn. */
export class Slots {
  readonly #free: number[];
  readonly #waiting: ((index: number) => void)[] = [];

  constructor(count: number) {
    this.#free = Array.from({ length: count }, (_, index) => index);
  }

  /** @throws the signal's reason */
  async take(signal: AbortSignal): Promise<Slot> {
    signal.throwIfAborted();
    const index = this.#free.pop() ?? (await this.#wait(signal));
    return { index, [Symbol.dispose]: () => this.#give(index) };
  }

  #wait(signal: AbortSignal): Promise<number> {
    return new Promise((resolve, reject) => {
      const taken = (index: number) => {
        signal.removeEventListener('abort', leave);
        resolve(index);
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(taken), 1);
        reject(signal.reason as Error);
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.push(taken);
    });
  }

  #give(index: number): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(index);
    else next(index);
  }
}
