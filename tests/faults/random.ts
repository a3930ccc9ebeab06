import { createHash } from 'node:crypto';

/** Numbers that a seed decides: the same seed and the same questions give the same answers on every machine. */
export class Random {
  readonly #seed: string;
  #state: Uint32Array;

  constructor(seed: string) {
    this.#seed = seed;
    const digest = createHash('sha256').update(seed).digest();
    this.#state = new Uint32Array(4).map((_, at) => digest.readUInt32LE(at * 4));
  }

  /** Another sequence of the same seed, which does not depend on how much was asked of this one. */
  branch(name: string): Random {
    return new Random(`${this.#seed}/${name}`);
  }

  /** From 0 on, below 1 (sfc32). */
  next(): number {
    const [a, b, c, d] = this.#state as unknown as [number, number, number, number];
    const sum = (a + b + d) >>> 0;
    this.#state = Uint32Array.of(b ^ (b >>> 9), c + (c << 3), ((c << 21) | (c >>> 11)) + sum, d + 1);
    return sum / 2 ** 32;
  }

  /** A whole number of both ends and what is between. */
  int(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(values: readonly T[]): T {
    return values[this.int(0, values.length - 1)]!;
  }

  /** By weights of any sum. */
  weighted<T>(values: readonly (readonly [weight: number, value: T])[]): T {
    let left = this.next() * values.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, value] of values) {
      left -= weight;
      if (left < 0) return value;
    }
    return values.at(-1)![1];
  }
}
