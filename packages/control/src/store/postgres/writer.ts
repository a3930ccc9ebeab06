import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { IdMaker } from '@cocore/protocol';
import { pooledRandom } from '../pooled-random.ts';
import type { Context } from '../verbs/context.ts';
import { STATEMENTS } from '../verbs/statements.ts';
import {
  type AnyVerb,
  askedBy,
  type AskedWrites,
  KEYS_OF,
  LOCKS_OF,
  WRITE_VERBS,
  type WriteVerb,
} from '../verbs/verbs.ts';
import type { Connection } from './connection.ts';
import { DatabaseFailure, isLost, storeError } from './errors.ts';
import { type Member, runGroup, UnknownCommit } from './group.ts';
import { control, type Outcome, Running } from './running.ts';

interface Write {
  readonly verb: WriteVerb;
  readonly nowMs: number;
  readonly parameters: readonly unknown[];
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** So many verbs are one transaction at most. */
const MAX_GROUP = 256;
/** Between two attempts to learn what became of a commit. */
const ASK_AGAIN_MS = 250;

const MARK = `
  INSERT INTO writers (writer_id, last_group, at) VALUES (?, ?, ?)
  ON CONFLICT (writer_id) DO UPDATE SET last_group = excluded.last_group, at = excluded.at`;
/** Waits for the end of the transaction that wrote it last. */
const LAST_GROUP = 'SELECT last_group FROM writers WHERE writer_id = ? FOR UPDATE';

/**
 * The one connection of a server that writes. What is asked for while a group is committed is the next group; the order of what was asked for is kept.
 * A group whose commit's answer was lost with its connection is looked for in the database before anything is said about it: it left its number there.
 */
export class Writer {
  readonly verbs: AskedWrites;
  readonly #connect: () => Promise<Connection>;
  readonly #now: () => number;
  readonly #id = randomBytes(16).toString('hex');
  readonly #random = pooledRandom();
  readonly #ids = new IdMaker();
  #connection: Connection | null;
  #pending: Write[] = [];
  #working: Promise<void> | null = null;
  #lastGroup = 0;
  #hasFailed = false;
  #isClosing = false;

  constructor(first: Connection, connect: () => Promise<Connection>, now: () => number) {
    this.#connection = first;
    this.#connect = connect;
    this.#now = now;
    this.verbs = askedBy((verb, parameters) => this.#ask(verb, parameters));
  }

  /** Commits what was asked for, then ends the connection. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#working;
    await this.#connection?.close();
  }

  /** Whether it can write: when a write has failed for another reason than that it was refused, another is tried. */
  async isWritable(): Promise<boolean> {
    if (!this.#hasFailed) return true;
    this.#hasFailed = false;
    return this.verbs.tryWrite().then(
      () => true,
      () => false,
    );
  }

  #ask(verb: WriteVerb, parameters: readonly unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#isClosing) {
        reject(new Error('the store is closed'));
        return;
      }
      this.#pending.push({ verb, nowMs: this.#now(), parameters, resolve, reject });
      this.#working ??= this.#work();
    });
  }

  async #work(): Promise<void> {
    // What is asked for in this turn is one group.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#pending.length > 0) {
      const group = this.#take();
      await this.#perform(group).catch((error: unknown) => {
        this.#connection?.drop();
        this.#fail(group, error);
      });
    }
    this.#working = null;
  }

  /** The next of one kind: those that may run beside others, or one after the other. */
  #take(): Write[] {
    const isHot = ({ verb }: Write) => KEYS_OF[verb] !== undefined;
    const hot = isHot(this.#pending[0]!);
    const other = this.#pending.findIndex((write) => isHot(write) !== hot);
    return this.#pending.splice(0, Math.min(other === -1 ? MAX_GROUP : other, MAX_GROUP));
  }

  async #perform(group: readonly Write[]): Promise<void> {
    if (this.#connection?.isLost !== false) this.#connection = await this.#connect();
    await this.#connection.renewPlans();
    this.#lastGroup += 1;
    const mark = control(MARK, this.#id, this.#lastGroup, this.#now());
    const members = group.map((write) => this.#member(write));
    try {
      this.#settle(group, await runGroup(this.#connection, members, mark));
    } catch (error) {
      if (!(error instanceof UnknownCommit)) throw error;
      this.#connection.drop();
      if (await this.#wasCommitted()) this.#settle(group, error.outcomes);
      else this.#fail(group, error.cause);
    }
  }

  #member({ verb, nowMs, parameters }: Write): Member {
    const context: Context = { db: STATEMENTS, now: () => nowMs, random: this.#random, ids: this.#ids };
    const keysOf = KEYS_OF[verb] as ((...parameters: readonly unknown[]) => string[]) | undefined;
    const locksOf = LOCKS_OF[verb] as ((...parameters: readonly unknown[]) => string[]) | undefined;
    const locks = locksOf?.(...parameters) ?? [];
    return {
      begin: () => new Running((WRITE_VERBS[verb] as AnyVerb)(context, ...parameters)),
      keys: keysOf === undefined ? null : [...keysOf(...parameters), ...locks],
      locks,
    };
  }

  /** Whether the newest group is in the database, once that can be asked. Meanwhile, nothing else can be written. */
  async #wasCommitted(): Promise<boolean> {
    for (;;) {
      try {
        this.#connection = await this.#connect();
        const [answer] = await this.#connection.round([control(LAST_GROUP, this.#id).asked]);
        const [row] = answer!.rows as { last_group: number }[];
        return row?.last_group === this.#lastGroup;
      } catch (error) {
        if (this.#isClosing) throw error;
        this.#fail(this.#pending.splice(0), error);
        await sleep(ASK_AGAIN_MS);
      }
    }
  }

  #settle(group: readonly Write[], outcomes: readonly Outcome[]): void {
    for (const [index, { resolve, reject }] of group.entries()) {
      const outcome = outcomes[index]!;
      if ('value' in outcome) resolve(outcome.value);
      else reject(this.#failure(outcome.error));
    }
  }

  #fail(group: readonly Write[], error: unknown): void {
    const failure = this.#failure(error);
    for (const { reject } of group) reject(failure);
  }

  #failure(error: unknown): unknown {
    const failure = storeError(error);
    if (failure instanceof DatabaseFailure || isLost(error)) this.#hasFailed = true;
    return failure;
  }
}
