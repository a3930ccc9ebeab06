import type { SqlValue } from '../verbs/statements.ts';

const texts = new Map<string, string>();

/** As PostgreSQL takes it: `$1` for the first `?`, and without the hints that SQLite's planner needs. */
export function toPostgres(sql: string): string {
  let text = texts.get(sql);
  if (text === undefined) {
    let number = 0;
    text = sql.replaceAll(/ INDEXED BY \w+/g, '').replaceAll('?', () => `$${(number += 1)}`);
    texts.set(sql, text);
  }
  return text;
}

/** PostgreSQL keeps no NUL in text, which only a worker's words could have. */
export const asKept = (text: string): string => (text.includes('\0') ? text.replaceAll('\0', '\u{FFFD}') : text);

/** A parameter on its way: text, or the bytes themselves. */
export function toParameter(value: SqlValue): string | Buffer | null {
  if (value === null) return null;
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return asKept(value);
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

type Decode = (text: string) => SqlValue;

function integer(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new Error(`${text} is no integer that a number holds exactly`);
  return value;
}

function bytes(text: string): Uint8Array {
  const { buffer, byteOffset, length } = Buffer.from(text.slice(2), 'hex');
  return new Uint8Array(buffer, byteOffset, length);
}

/** By the types' numbers (`pg_type.dat`). */
const DECODE: ReadonlyMap<number, Decode> = new Map<number, Decode>([
  [17, bytes],
  [20, integer],
  [21, integer],
  [23, integer],
  [25, (text) => text],
  [701, Number],
  // What has no value, as a lock that was taken.
  [2278, (text) => text],
]);

/** How a column of this type is read. @throws for one that no statement of the store gives */
export function decoderOf(typeNumber: number): Decode {
  const decode = DECODE.get(typeNumber);
  if (decode === undefined) throw new Error(`no statement of the store gives the type ${typeNumber}`);
  return decode;
}
