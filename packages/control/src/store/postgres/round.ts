import type { SqlValue } from '../verbs/statements.ts';
import { LostConnection } from './errors.ts';
import { decoderOf, toParameter, toPostgres } from './sql.ts';

/** A statement to send. */
export interface Asked {
  readonly sql: string;
  readonly parameters: readonly SqlValue[];
}

export interface Answer {
  readonly rows: readonly object[];
  /** How many rows were given or changed. */
  readonly count: number;
  /** What was done, such as `COMMIT`. */
  readonly command: string;
}

interface Column {
  readonly name: string;
  readonly decode: (text: string) => SqlValue;
}

/** What one connection has prepared, by the statement's text. */
export class Prepared {
  readonly #statements = new Map<string, { readonly name: string; readonly columns: readonly Column[] }>();
  #lastNumber = 0;

  get(sql: string) {
    return this.#statements.get(sql);
  }

  /** Never given twice: a name whose statement failed may be taken all the same. */
  newName(): string {
    this.#lastNumber += 1;
    return `s${this.#lastNumber}`;
  }

  add(sql: string, name: string, columns: readonly Column[]): void {
    this.#statements.set(sql, { name, columns });
  }
}

/** The part of `pg`'s connection that a round needs. */
export interface Wire {
  readonly stream: { cork(): void; uncork(): void };
  parse(statement: { name: string; text: string }): void;
  describe(what: { type: 'S'; name: string }): void;
  bind(binding: { statement: string; values: (string | Buffer | null)[] }): void;
  execute(what: Record<string, never>): void;
  sync(): void;
}

/**
 * Statements that are sent together and answered together, for one way there and back: what `pg` calls a submittable query. Each is prepared once for a
 * connection. When one fails, those after it are not executed.
 */
export class Round {
  readonly answers: Promise<Answer[]>;
  readonly #asked: readonly Asked[];
  readonly #prepared: Prepared;
  readonly #answers: Answer[] = [];
  /** Of those that are prepared by this round. */
  readonly #names = new Map<string, string>();
  #columns: readonly Column[] = [];
  #rows: object[] = [];
  #resolve!: (answers: Answer[]) => void;
  #reject!: (error: unknown) => void;

  constructor(asked: readonly Asked[], prepared: Prepared) {
    this.#asked = asked;
    this.#prepared = prepared;
    this.answers = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  submit(wire: Wire): void {
    wire.stream.cork();
    for (const { sql, parameters } of this.#asked) {
      let name = this.#prepared.get(sql)?.name ?? this.#names.get(sql);
      if (name === undefined) {
        name = this.#prepared.newName();
        this.#names.set(sql, name);
        wire.parse({ name, text: toPostgres(sql) });
        wire.describe({ type: 'S', name });
      }
      wire.bind({ statement: name, values: parameters.map(toParameter) });
      wire.execute({});
    }
    wire.sync();
    wire.stream.uncork();
  }

  /** Comes once for each statement that this round prepares, where that has columns. */
  handleRowDescription({ fields }: { fields: readonly { name: string; dataTypeID: number }[] }): void {
    try {
      this.#columns = fields.map(({ name, dataTypeID }) => ({ name, decode: decoderOf(dataTypeID) }));
    } catch (error) {
      this.#reject(error);
    }
  }

  handleDataRow({ fields }: { fields: readonly (string | null)[] }): void {
    const columns = this.#prepared.get(this.#current.sql)?.columns ?? this.#columns;
    const row: Record<string, SqlValue> = {};
    try {
      for (let index = 0; index < columns.length; index += 1) {
        const { name, decode } = columns[index]!;
        const text = fields[index]!;
        row[name] = text === null ? null : decode(text);
      }
    } catch (error) {
      this.#reject(error);
    }
    this.#rows.push(row);
  }

  handleCommandComplete({ text }: { text: string }): void {
    const { sql } = this.#current;
    if (this.#prepared.get(sql) === undefined) this.#prepared.add(sql, this.#names.get(sql)!, this.#columns);
    // `UPDATE 1`, `INSERT 0 1`, `SELECT 3`, `COMMIT`
    this.#answers.push({ rows: this.#rows, count: Number(/ (\d+)$/.exec(text)?.[1] ?? 0), command: text });
    this.#rows = [];
    this.#columns = [];
  }

  handleError(error: unknown): void {
    // What is not the database's word is `pg`'s about its socket, in errors of no class.
    const isWord = (error as { severity?: unknown }).severity !== undefined;
    this.#reject(isWord ? error : new LostConnection((error as Error).message, { cause: error }));
  }

  handleReadyForQuery(): void {
    this.#resolve(this.#answers);
  }

  get #current(): Asked {
    return this.#asked[this.#answers.length]!;
  }
}
