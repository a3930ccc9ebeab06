import type { SqlValue } from '../verbs/statements.ts';
import { LostConnection } from './errors.ts';
import { asKept } from './sql.ts';

/** The part of `pg`'s connection that a copy needs. */
interface Wire {
  query(sql: string): void;
  sendCopyFromChunk(bytes: Buffer): void;
  endCopyFrom(): void;
}

export type CopyType = 'text' | 'bytes' | 'integer' | 'real';

/** `PGCOPY\n\xff\r\n\0`, no flags, nothing more in the header. */
const HEADER = Buffer.from('5047434f50590aff0d0a000000000000000000', 'hex');
const TRAILER = Buffer.from('ffff', 'hex');
const NULL_LENGTH = -1;
const ROOM_BYTES = 256 * 1024;

/** Rows in the binary format of `COPY`, which takes bytes as they are. */
export class CopyRows {
  readonly #types: readonly CopyType[];
  #room = Buffer.allocUnsafe(ROOM_BYTES);
  #length = HEADER.copy(this.#room);

  /** @param types of the columns */
  constructor(types: readonly CopyType[]) {
    this.#types = types;
  }

  get byteLength(): number {
    return this.#length;
  }

  add(row: readonly SqlValue[]): void {
    this.#need(2);
    this.#length = this.#room.writeInt16BE(row.length, this.#length);
    for (let index = 0; index < row.length; index += 1) this.#addField(row[index]!, this.#types[index]!);
  }

  /** All of them; the rows begin anew. */
  take(): Buffer {
    this.#need(TRAILER.length);
    TRAILER.copy(this.#room, this.#length);
    const bytes = this.#room.subarray(0, this.#length + TRAILER.length);
    this.#room = Buffer.allocUnsafe(ROOM_BYTES);
    this.#length = HEADER.copy(this.#room);
    return bytes;
  }

  #addField(value: SqlValue, type: CopyType): void {
    if (value === null) {
      this.#begin(0);
      this.#room.writeInt32BE(NULL_LENGTH, this.#length - 4);
    } else if (typeof value === 'string') {
      const text = asKept(value);
      this.#begin(Buffer.byteLength(text));
      this.#length += this.#room.write(text, this.#length);
    } else if (typeof value === 'number') {
      this.#begin(8);
      this.#length =
        type === 'real'
          ? this.#room.writeDoubleBE(value, this.#length)
          : this.#room.writeBigInt64BE(BigInt(value), this.#length);
    } else {
      this.#begin(value.length);
      this.#room.set(value, this.#length);
      this.#length += value.length;
    }
  }

  #begin(fieldLength: number): void {
    this.#need(4 + fieldLength);
    this.#length = this.#room.writeInt32BE(fieldLength, this.#length);
  }

  #need(bytes: number): void {
    if (this.#length + bytes <= this.#room.length) return;
    const room = Buffer.allocUnsafe(Math.max(2 * this.#room.length, this.#length + bytes));
    this.#room.copy(room, 0, 0, this.#length);
    this.#room = room;
  }
}

/** One `COPY … FROM STDIN (FORMAT binary)` with all of its rows: what `pg` calls a submittable query. */
export class Copy {
  readonly done: Promise<void>;
  readonly #sql: string;
  readonly #rows: Buffer;
  #resolve!: () => void;
  #reject!: (error: unknown) => void;

  constructor(sql: string, rows: Buffer) {
    this.#sql = sql;
    this.#rows = rows;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  submit(wire: Wire): void {
    wire.query(this.#sql);
  }

  handleCopyInResponse(wire: Wire): void {
    wire.sendCopyFromChunk(this.#rows);
    wire.endCopyFrom();
  }

  handleCommandComplete(): void {
    // What follows says that the connection is free again.
  }

  handleError(error: unknown): void {
    const isWord = (error as { severity?: unknown }).severity !== undefined;
    this.#reject(isWord ? error : new LostConnection((error as Error).message, { cause: error }));
  }

  handleReadyForQuery(): void {
    this.#resolve();
  }
}
