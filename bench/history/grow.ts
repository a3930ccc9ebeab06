import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import { IdMaker } from '../../packages/protocol/src/index.ts';
import type { Random } from '../../tests/faults/random.ts';

export interface Template {
  readonly projectId: string;
  /** One that has ended, with one attempt and some output. */
  readonly executionId: string;
  readonly batchId: string;
  readonly functionIds: readonly string[];
}

type Columns = Record<string, SQLInputValue>;

/** Between two executions; ten million are a month. */
const APART_MS = 250;
const PER_BATCH = 100;
/** One in so many is of a batch, and one in so many failed. */
const BATCHES_APART = 10;
const FAILURES_APART = 1_000;

/** Copies of one execution, as a server would have made them over time: rows, indexes and triggers as it has them, without its verbs, which would take hours. */
export class History {
  readonly #template: Template;
  readonly #random: Random;
  readonly #ids = new IdMaker();
  /** One in so many, to ask for. */
  readonly #sampled: string[] = [];
  readonly #batches: string[] = [];
  #count = 0;

  constructor(template: Template, random: Random) {
    this.#template = template;
    this.#random = random;
  }

  /** @param share of the history, from 0 for its beginning to 1 for its end */
  idAt(share: number): string {
    return this.#sampled[Math.floor(share * this.#sampled.length)]!;
  }

  batchAt(share: number): string {
    return this.#batches[Math.floor(share * this.#batches.length)]!;
  }

  /** Until there are so many. */
  grow(db: DatabaseSync, until: number): void {
    const { executionId, batchId } = this.#template;
    db.exec('PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL; PRAGMA cache_size = -500000');
    const execution = db.prepare('SELECT * FROM executions WHERE execution_id = ?').get(executionId) as Columns;
    const attempt = db.prepare('SELECT * FROM attempts WHERE execution_id = ?').get(executionId) as Columns;
    const output = db
      .prepare('SELECT * FROM output_chunks WHERE attempt_id = ?')
      .get(attempt['attempt_id']!) as Columns;
    const batch = db.prepare('SELECT * FROM batches WHERE batch_id = ?').get(batchId) as Columns;
    const insert = {
      execution: inserter(db, 'executions', execution),
      attempt: inserter(db, 'attempts', attempt),
      output: inserter(db, 'output_chunks', output),
      batch: inserter(db, 'batches', batch),
    };
    db.exec('BEGIN');
    for (; this.#count < until; this.#count += 1) {
      const atMs = Date.now() - 40 * 86_400_000 + this.#count * APART_MS;
      const ids = { execution_id: this.#id('execution', atMs), attempt_id: this.#id('attempt', atMs) };
      const inBatches = Math.floor(this.#count / BATCHES_APART);
      const place = this.#count % BATCHES_APART === 0 ? inBatches % PER_BATCH : null;
      if (place === 0) {
        this.#batches.push(this.#id('batch', atMs));
        insert.batch({ batch_id: this.#batches.at(-1)!, created_at: atMs });
      }
      const isFailure = this.#random.int(1, FAILURES_APART) === 1;
      insert.execution({
        execution_id: ids.execution_id,
        function_id: this.#random.pick(this.#template.functionIds),
        deciding_attempt: ids.attempt_id,
        batch_id: place === null ? null : this.#batches.at(-1)!,
        batch_index: place,
        ...(isFailure ? { state: 'failure', reason: 'exit_code', exit_code: 1 } : {}),
        ...times(atMs, ['created_at', 'queue_expires_at', 'accepted_at', 'started_at', 'ended_at']),
      });
      insert.attempt({ ...ids, ...times(atMs, ['created_at', 'accepted_at', 'started_at', 'ended_at']) });
      insert.output({ attempt_id: ids.attempt_id });
      if (this.#random.int(1, 100) === 1) this.#sampled.push(ids.execution_id);
      if (this.#count % 100_000 === 99_999) db.exec('COMMIT; BEGIN');
    }
    db.exec('COMMIT; PRAGMA wal_checkpoint(TRUNCATE)');
  }

  #id(kind: 'execution' | 'attempt' | 'batch', atMs: number): string {
    return this.#ids.make(kind, atMs, crypto.getRandomValues(new Uint8Array(10)));
  }
}

const times = (atMs: number, columns: readonly string[]): Columns =>
  Object.fromEntries(columns.map((column) => [column, atMs]));

/** Inserts the row with some columns changed. */
function inserter(db: DatabaseSync, table: string, template: Columns): (change: Columns) => void {
  const columns = Object.keys(template);
  const statement = db.prepare(
    `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`,
  );
  return (change) => void statement.run(...columns.map((column) => change[column] ?? template[column]!));
}
