/** A binary heap whose elements can be found again: the first by `isBefore` is on top; any of them can be moved or taken out. */
export class Heap<T> {
  readonly #isBefore: (one: T, other: T) => boolean;
  readonly #items: T[];
  readonly #places = new Map<T, number>();

  /** @param isBefore a strict order; what it looks at changes only together with a call of `place` */
  constructor(isBefore: (one: T, other: T) => boolean, items: Iterable<T> = []) {
    this.#isBefore = isBefore;
    this.#items = [...items];
    for (const [at, item] of this.#items.entries()) this.#places.set(item, at);
    for (let at = (this.#items.length >> 1) - 1; at >= 0; at -= 1) this.#sink(at);
  }

  get size(): number {
    return this.#items.length;
  }

  get first(): T | undefined {
    return this.#items[0];
  }

  /** Puts it in, or, when it is in, where it belongs now. */
  place(item: T): void {
    let at = this.#places.get(item);
    if (at === undefined) {
      at = this.#items.length;
      this.#items.push(item);
      this.#places.set(item, at);
    }
    if (!this.#rise(at)) this.#sink(at);
  }

  delete(item: T): void {
    const at = this.#places.get(item);
    if (at === undefined) return;
    this.#places.delete(item);
    const last = this.#items.pop()!;
    if (last === item) return;
    this.#put(last, at);
    if (!this.#rise(at)) this.#sink(at);
  }

  #put(item: T, at: number): void {
    this.#items[at] = item;
    this.#places.set(item, at);
  }

  #rise(from: number): boolean {
    const item = this.#items[from]!;
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (!this.#isBefore(item, this.#items[above]!)) break;
      this.#put(this.#items[above]!, at);
      at = above;
    }
    if (at === from) return false;
    this.#put(item, at);
    return true;
  }

  #sink(from: number): void {
    const item = this.#items[from]!;
    const { length } = this.#items;
    let at = from;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= length) break;
      if (below + 1 < length && this.#isBefore(this.#items[below + 1]!, this.#items[below]!)) below += 1;
      if (!this.#isBefore(this.#items[below]!, item)) break;
      this.#put(this.#items[below]!, at);
      at = below;
    }
    if (at !== from) this.#put(item, at);
  }
}
