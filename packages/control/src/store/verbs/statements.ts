/** What a statement is given and gives: integers below 2^53, text, bytes. A truth is 0 or 1. */
export type SqlValue = string | number | null | Uint8Array;

/**
 * What a verb asks of the database that it runs on. The SQL is what SQLite and PostgreSQL have in common, with `?` for each parameter; SQLite's
 * `INDEXED BY` may be in it, which PostgreSQL is not given.
 */
export type Statement =
  | {
      readonly kind: 'get' | 'all' | 'run' | 'send' | 'change';
      readonly sql: string;
      readonly parameters: readonly SqlValue[];
    }
  | { readonly kind: 'count'; readonly count: Count };

/** What changes in the counters of a project and of one of its functions. */
export interface Count {
  readonly projectId: string;
  /** Null where nothing of a function changes. */
  readonly functionId: string | null;
  /** Executions that have not ended. */
  readonly live: number;
  /** Of them, those that no worker has accepted. */
  readonly queued: number;
  /** Bytes of output of attempts that have ended. */
  readonly outputBytes: number;
  /** Called with what the counters are after the change, where that could be too much. @throws what the verb would have */
  readonly check: ((held: Held) => void) | null;
}

export interface Held {
  readonly live: number;
  readonly queued: number;
  readonly queuedOfFunction: number;
}

/**
 * A verb under way: it yields statements, one by one, and is given what each came to. Who runs it decides when that is, so the same verb runs on a
 * database that answers at once and on one that is asked over a network.
 */
export type Verb<Result> = Generator<Statement, Result, unknown>;

/** Something changed between a verb's reading and its writing: what it did is undone, and it runs again with nobody beside it. */
export class Conflict extends Error {}

/** What `yield*` asks for; the same as a generator that yields one statement, at a third of the cost. */
class Asking<Result> implements Iterator<Statement, Result, unknown> {
  readonly #statement: Statement;
  #isAsked = false;

  constructor(statement: Statement) {
    this.#statement = statement;
  }

  next(answer?: unknown): IteratorResult<Statement, Result> {
    if (this.#isAsked) return { done: true, value: answer as Result };
    this.#isAsked = true;
    return { done: false, value: this.#statement };
  }

  [Symbol.iterator](): this {
    return this;
  }
}

/** How a verb asks, by `yield*`. */
export const STATEMENTS = {
  /** The first row. */
  get: <Row extends object>(sql: string, ...parameters: SqlValue[]) =>
    new Asking<Row | undefined>({ kind: 'get', sql, parameters }),
  all: <Row extends object>(sql: string, ...parameters: SqlValue[]) =>
    new Asking<Row[]>({ kind: 'all', sql, parameters }),
  /** Gives the number of rows changed. */
  run: (sql: string, ...parameters: SqlValue[]) => new Asking<number>({ kind: 'run', sql, parameters }),
  /** For a write whose count nobody needs: the verb need not wait for it. */
  send: (sql: string, ...parameters: SqlValue[]) => new Asking<void>({ kind: 'send', sql, parameters }),
  /** For a write of one row that the verb has read: when it is not as it was read, that is a `Conflict`. It need not be waited for. */
  change: (sql: string, ...parameters: SqlValue[]) => new Asking<void>({ kind: 'change', sql, parameters }),
  count: (count: Count) => new Asking<void>({ kind: 'count', count }),
} as const;

export type Statements = typeof STATEMENTS;
