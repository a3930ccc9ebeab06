/** The bits of one word. */
const WIDTH = 32;
const wordOf = (slot: number): number => slot >>> 5;
const bitOf = (slot: number): number => 1 << (slot & 31);
/** A set that touches more words than this is kept as an array of all words. */
const MAX_SPARSE = 32;

/** A set of slots, which are small whole numbers that are given out densely: a bit for each. */
export class SlotSet {
  #sparse: Map<number, number> | null = new Map();
  #words = new Int32Array(0);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(slot: number): boolean {
    return (this.word(wordOf(slot)) & bitOf(slot)) !== 0;
  }

  add(slot: number): void {
    if (this.has(slot)) return;
    this.#size += 1;
    this.#write(wordOf(slot), this.word(wordOf(slot)) | bitOf(slot));
  }

  delete(slot: number): void {
    if (!this.has(slot)) return;
    this.#size -= 1;
    this.#write(wordOf(slot), this.word(wordOf(slot)) & ~bitOf(slot));
  }

  /** The bits of 32 slots. */
  word(at: number): number {
    return this.#sparse === null ? (this.#words[at] ?? 0) : (this.#sparse.get(at) ?? 0);
  }

  /** All words, of which those that are past the end are zero; null where there are few. */
  get dense(): Int32Array | null {
    return this.#sparse === null ? this.#words : null;
  }

  /** Words from there on are zero. */
  get length(): number {
    return this.#sparse === null ? this.#words.length : Math.max(-1, ...this.#sparse.keys()) + 1;
  }

  #write(at: number, bits: number): void {
    if (this.#sparse !== null) {
      if (bits === 0) this.#sparse.delete(at);
      else this.#sparse.set(at, bits);
      if (this.#sparse.size > MAX_SPARSE) this.#widen();
      return;
    }
    if (at >= this.#words.length) {
      const words = new Int32Array(Math.max(at + 1, this.#words.length * 2));
      words.set(this.#words);
      this.#words = words;
    }
    this.#words[at] = bits;
  }

  #widen(): void {
    const words = new Int32Array(this.length);
    for (const [at, bits] of this.#sparse!) words[at] = bits;
    this.#words = words;
    this.#sparse = null;
  }
}

/** A whole number for each slot, such that of a set of slots those with the least are found without looking at each: one set for each binary digit. */
export class SlotNumbers {
  /** The most significant first. */
  readonly #digits: readonly SlotSet[];
  readonly #most: number;

  /** @param digits larger numbers count as the largest of so many binary digits */
  constructor(digits: number) {
    this.#digits = Array.from({ length: digits }, () => new SlotSet());
    this.#most = 2 ** digits - 1;
  }

  set(slot: number, value: number): void {
    const number = Math.min(this.#most, Math.max(0, Math.floor(value)));
    for (const [at, digit] of this.#digits.entries()) {
      if ((number >>> (this.#digits.length - 1 - at)) & 1) digit.add(slot);
      else digit.delete(slot);
    }
  }

  keepLeast(among: Narrowing): void {
    for (const digit of this.#digits) among.withoutIfAny(digit);
  }
}

/** A set of slots that is made smaller and smaller. It is used again and again, so that nothing is allocated for a decision. */
export class Narrowing {
  #at = new Int32Array(0);
  #bits = new Int32Array(0);
  #length = 0;
  #nextAt = new Int32Array(0);
  #nextBits = new Int32Array(0);

  begin(slots: SlotSet): void {
    const { length } = slots;
    if (length > this.#at.length) {
      const words = Math.max(length, this.#at.length * 2);
      this.#at = new Int32Array(words);
      this.#bits = new Int32Array(words);
      this.#nextAt = new Int32Array(words);
      this.#nextBits = new Int32Array(words);
    }
    this.#length = 0;
    for (let at = 0; at < length; at += 1) {
      const bits = slots.word(at);
      if (bits === 0) continue;
      this.#at[this.#length] = at;
      this.#bits[this.#length] = bits;
      this.#length += 1;
    }
  }

  /** Only those that are in it, if any is. */
  withinIfAny(slots: SlotSet): void {
    this.#narrow(slots, 0);
  }

  /** Only those that are not in it, if any is not. */
  withoutIfAny(slots: SlotSet): void {
    this.#narrow(slots, -1);
  }

  /** The least; null when there is none. */
  get first(): number | null {
    if (this.#length === 0) return null;
    const bits = this.#bits[0]!;
    return this.#at[0]! * WIDTH + (31 - Math.clz32(bits & -bits));
  }

  #narrow(slots: SlotSet, flip: 0 | -1): void {
    if (slots.size === 0) return;
    const [ats, bits, nextAts, nextBits, { dense }] = [this.#at, this.#bits, this.#nextAt, this.#nextBits, slots];
    let left = 0;
    for (let place = 0; place < this.#length; place += 1) {
      const at = ats[place]!;
      const word = dense === null ? slots.word(at) : (dense[at] ?? 0);
      const kept = bits[place]! & (word ^ flip);
      nextAts[left] = at;
      nextBits[left] = kept;
      // No branch: which words stay is anybody's guess.
      left += kept === 0 ? 0 : 1;
    }
    if (left === 0) return;
    [this.#at, this.#nextAt] = [this.#nextAt, this.#at];
    [this.#bits, this.#nextBits] = [this.#nextBits, this.#bits];
    this.#length = left;
  }
}
