import { hash } from 'node:crypto';
import type { Connection } from '../postgres/connection.ts';
import type { Database } from '../sqlite/database.ts';
import type { SqlValue } from '../verbs/statements.ts';
import { CopyRows } from '../postgres/copy.ts';
import { asKept } from '../postgres/sql.ts';
import { type MovedTable, quoted, rowsOf } from './plan.ts';

/** What is sent at once is not much more than this. */
const BATCH_BYTES = 1024 * 1024;
/** So many are read at once. */
const BATCH_ROWS = 500;
/** What is longer is compared by its digest, which PostgreSQL makes: what was moved does not come back over the network. */
const LONG_BYTES = 100;

/** One row, in the order of the table's columns. */
export type Row = readonly SqlValue[];

/** What rows come to, in whatever order they are read. No row is there twice, as each table has a primary key. */
export class RowSum {
  count = 0;
  readonly #sum = Buffer.alloc(32);

  add(row: Row): void {
    const digest = hash('sha256', JSON.stringify(row), 'buffer');
    for (let index = 0; index < digest.length; index += 1) this.#sum[index]! ^= digest[index]!;
    this.count += 1;
  }

  equals(other: RowSum): boolean {
    return this.count === other.count && this.#sum.equals(other.#sum);
  }
}

/** The rows of a table, one by one. */
export function* rowsIn(from: Database, { name, columns }: MovedTable): Generator<Row> {
  const names = columns.map((column) => quoted(column.name)).join(', ');
  for (const row of from.each(`SELECT ${names} FROM ${quoted(name)}`)) yield Object.values(row) as SqlValue[];
}

/** Adds rows to a table, and to what they come to. `onBatch` is told of each number of rows that is there. */
export async function insertRows(
  to: Connection,
  { name, columns }: MovedTable,
  rows: AsyncIterable<Row> | Iterable<Row>,
  sum: RowSum,
  onBatch: (rows: number, bytes: number) => void,
): Promise<void> {
  const names = columns.map((column) => quoted(column.name)).join(', ');
  const sql = `COPY ${quoted(name)} (${names}) FROM STDIN (FORMAT binary)`;
  const batch = new CopyRows(columns.map(({ type }) => type));
  let count = 0;
  const send = async () => {
    const bytes = batch.take();
    await to.copy(sql, bytes);
    onBatch(count, bytes.length);
    count = 0;
  };
  for await (const row of rows) {
    sum.add(row.map(compared));
    batch.add(row);
    count += 1;
    if (batch.byteLength >= BATCH_BYTES) await send();
  }
  if (count > 0) await send();
}

/** What the rows of a table come to, as PostgreSQL has them. To be called within a transaction. */
export async function sumOf(
  connection: Connection,
  { name, columns }: MovedTable,
  signal: AbortSignal,
): Promise<RowSum> {
  const expressions = columns.map((column) => {
    const value = quoted(column.name);
    if (column.type === 'bytes') return `${digestOf(value)} AS ${value}`;
    if (column.type !== 'text') return value;
    const digest = digestOf(`convert_to(${value}, 'UTF8')`);
    return `CASE WHEN octet_length(${value}) > ${LONG_BYTES} THEN ${digest} ELSE ${value} END AS ${value}`;
  });
  const cursor = quoted(`all ${name}`);
  await connection.execute(
    `DECLARE ${cursor} NO SCROLL CURSOR FOR SELECT ${expressions.join(', ')} FROM ${quoted(name)}`,
  );
  const sum = new RowSum();
  for (;;) {
    signal.throwIfAborted();
    const rows = await rowsOf(connection, `FETCH ${BATCH_ROWS} FROM ${cursor}`);
    for (const row of rows) sum.add(Object.values(row) as SqlValue[]);
    if (rows.length < BATCH_ROWS) break;
  }
  await connection.execute(`CLOSE ${cursor}`);
  return sum;
}

const digestOf = (bytes: string): string => `encode(sha256(${bytes}), 'hex')`;

function compared(given: SqlValue): SqlValue {
  const value = typeof given === 'string' ? asKept(given) : given;
  const isLong = typeof value === 'string' ? Buffer.byteLength(value) > LONG_BYTES : value instanceof Uint8Array;
  return isLong ? hash('sha256', value as string | Uint8Array, 'hex') : value;
}
