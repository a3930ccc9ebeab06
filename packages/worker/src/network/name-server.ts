import { parseIpv4 } from '@cocore/protocol';
import { awakeClock, type Clock } from '../host/clock.ts';
import type { AllowList } from './allow-list.ts';
import { Allowance } from './allowance.ts';
import { answerTo, CLASS_IN, parseQuestion, type Question, TYPE_A } from './dns-message.ts';
import type { Pins } from './pins.ts';
import type { Resolve } from './resolve.ts';

export interface NameServerParts {
  readonly allow: AllowList;
  readonly pins: Pins;
  readonly resolve: Resolve;
  /** Whether an address may be reached at all, whatever the list says. */
  readonly isOpen: (address: number) => boolean;
  /** A name was asked for that is not listed, or one more than may be. */
  readonly onRefused: (name: string) => void;
  readonly clock?: Clock;
}

/** What one execution may ask. A name that leaves the host carries what the function puts into it, to whoever answers for the domain. */
export const NAME_LIMITS = {
  perSecond: 50,
  burst: 100,
  /** Names that were asked of the host's resolver, all together. */
  names: 1024,
  nameBytes: 32 * 1024,
  /** At once. */
  lookups: 32,
} as const;

const MAX_ADDRESSES = 8;
/** An answer is kept no shorter, so that asking again carries nothing, and no longer. */
const [MIN_KEPT_SECONDS, MAX_KEPT_SECONDS] = [30, 300];
/** A failure of the host's resolver may pass soon. */
const FAILED_SECONDS = 5;
const LOOPBACK = 0x7f00_0001;

interface Kept {
  /** Null when nobody could tell. */
  readonly addresses: readonly number[] | null;
  readonly untilMs: number;
}

/**
 * The name server of one execution. It answers for the names of its list, with IPv4 addresses that may be reached, and pins what it answered; every other
 * name there is not. Nothing that a function sends reaches another name server but a name that is listed.
 */
export class NameServer {
  readonly #parts: NameServerParts;
  readonly #clock: Clock;
  readonly #questions: Allowance;
  readonly #kept = new Map<string, Kept>();
  readonly #lookups = new Map<string, Promise<Kept>>();
  #names = 0;
  #nameBytes = 0;

  constructor(parts: NameServerParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? awakeClock;
    this.#questions = new Allowance(NAME_LIMITS.perSecond, NAME_LIMITS.burst, this.#clock);
  }

  /** The answer to a datagram; null when there is none. It never rejects. */
  async answer(datagram: Uint8Array): Promise<Buffer | null> {
    if (!this.#questions.take()) return null;
    const question = parseQuestion(datagram);
    if (question === null) return null;
    const { name } = question;
    if (question.class !== CLASS_IN) return answerTo(question, 'unsupported');
    if (name === 'localhost') return this.#answer(question, [LOOPBACK], MAX_KEPT_SECONDS);
    const ports = this.#parts.allow.portsOfName(name);
    if (ports === undefined) {
      this.#parts.onRefused(name);
      return answerTo(question, 'unknown');
    }
    // There is nothing but IPv4, and no other record is of use to who may only connect.
    if (question.type !== TYPE_A) return answerTo(question, 'ok');
    const kept = await this.#find(name);
    if (kept === null || kept.addresses === null) return answerTo(question, 'failed');
    if (kept.addresses.length === 0) return answerTo(question, 'unknown');
    this.#parts.pins.add(kept.addresses, ports);
    return this.#answer(question, kept.addresses, Math.max(1, Math.ceil((kept.untilMs - this.#clock()) / 1000)));
  }

  #answer(question: Question, addresses: readonly number[], ttlSeconds: number): Buffer {
    return question.type === TYPE_A ? answerTo(question, 'ok', { addresses, ttlSeconds }) : answerTo(question, 'ok');
  }

  /** What is known of a name, or can be found out; null when it is not asked. */
  async #find(name: string): Promise<Kept | null> {
    const kept = this.#kept.get(name);
    if (kept !== undefined && kept.untilMs > this.#clock()) return kept;
    const underway = this.#lookups.get(name);
    if (underway !== undefined) return underway;
    if (kept === undefined && !this.#takeName(name)) return null;
    if (this.#lookups.size >= NAME_LIMITS.lookups) return null;
    const lookup = this.#lookUp(name);
    this.#lookups.set(name, lookup);
    try {
      return await lookup;
    } finally {
      this.#lookups.delete(name);
    }
  }

  #takeName(name: string): boolean {
    if (this.#names >= NAME_LIMITS.names || this.#nameBytes + name.length > NAME_LIMITS.nameBytes) {
      this.#parts.onRefused(name);
      return false;
    }
    this.#names += 1;
    this.#nameBytes += name.length;
    return true;
  }

  async #lookUp(name: string): Promise<Kept> {
    const until = (seconds: number) => this.#clock() + seconds * 1000;
    let kept: Kept;
    try {
      const { addresses, ttlSeconds } = await this.#parts.resolve(name);
      const open = addresses
        .map(parseIpv4)
        .filter((address) => address !== null)
        .filter(this.#parts.isOpen);
      const seconds = Math.min(MAX_KEPT_SECONDS, Math.max(MIN_KEPT_SECONDS, ttlSeconds));
      kept = { addresses: open.slice(0, MAX_ADDRESSES), untilMs: until(seconds) };
    } catch {
      kept = { addresses: null, untilMs: until(FAILED_SECONDS) };
    }
    this.#kept.set(name, kept);
    return kept;
  }
}
