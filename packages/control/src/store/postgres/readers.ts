import { IdMaker } from '@cocore/protocol';
import type { Context } from '../verbs/context.ts';
import { STATEMENTS } from '../verbs/statements.ts';
import { type AnyVerb, type AskedReads, IN_ONE_COMMIT, READ_VERBS, type ReadVerb } from '../verbs/verbs.ts';
import type { Connection } from './connection.ts';
import { isLost, storeError } from './errors.ts';
import type { Answer } from './round.ts';
import { control, Running, type Sent } from './running.ts';

const BEGIN = control('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
const COMMIT = control('COMMIT');

/** The connections that only read: a verb has one to itself, and waits for one where all are taken. */
export class Readers {
  readonly verbs: AskedReads;
  readonly #connect: () => Promise<Connection>;
  readonly #context: Context;
  readonly #idle: Connection[] = [];
  readonly #waiting: (() => void)[] = [];
  /** How many more may be taken or made. */
  #free: number;
  #isClosed = false;

  constructor(connect: () => Promise<Connection>, size: number, now: () => number) {
    this.#connect = connect;
    this.#free = size;
    this.#context = {
      db: STATEMENTS,
      now,
      random: () => {
        throw new Error('reading makes no ids');
      },
      ids: new IdMaker(),
    };
    this.verbs = Object.fromEntries(
      Object.keys(READ_VERBS).map((verb) => [
        verb,
        (...parameters: unknown[]) => this.#read(verb as ReadVerb, parameters),
      ]),
    ) as unknown as AskedReads;
  }

  /** What is asked for meanwhile still has its answer. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const connection of this.#idle.splice(0)) await connection.close();
  }

  async #read(verb: ReadVerb, parameters: readonly unknown[]): Promise<unknown> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#free -= 1;
    try {
      // A connection that lay idle may be gone without a word; a new one is not.
      return await this.#readOnce(this.#take() ?? (await this.#connect()), verb, parameters).catch((error: unknown) => {
        if (!isLost(error)) throw error;
        return this.#connect().then((connection) => this.#readOnce(connection, verb, parameters));
      });
    } catch (error) {
      throw storeError(error);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }

  #take(): Connection | undefined {
    for (;;) {
      const connection = this.#idle.pop();
      if (connection?.isLost !== true) return connection;
    }
  }

  async #readOnce(connection: Connection, verb: ReadVerb, parameters: readonly unknown[]): Promise<unknown> {
    const running = new Running((READ_VERBS[verb] as AnyVerb)(this.#context, ...parameters));
    const isOne = IN_ONE_COMMIT.has(verb);
    const sent: Sent[] = isOne ? [BEGIN] : [];
    let answer: Answer | null = null;
    try {
      await connection.renewPlans();
      for (;;) {
        running.advance(answer, sent, neverCounts);
        if (running.outcome !== null) break;
        const answers: Answer[] = await connection.round(sent.splice(0).map(({ asked }) => asked));
        answer = answers.at(-1)!;
      }
      if (isOne && sent.length === 0) await connection.round([COMMIT.asked]);
    } catch (error) {
      connection.drop();
      throw error;
    }
    if (this.#isClosed) await connection.close();
    else this.#idle.push(connection);
    if ('error' in running.outcome) throw running.outcome.error;
    return running.outcome.value;
  }
}

function neverCounts(): never {
  throw new Error('reading changes no counters');
}
