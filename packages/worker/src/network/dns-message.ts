/** What a guest asks of its name server: one question, as it stands in the datagram. */
export interface Question {
  readonly id: number;
  /** In lower case, without a dot at its end; empty for the root. Any byte may be in a label, but a dot. */
  readonly name: string;
  /** `A` and so on, as numbers. */
  readonly type: number;
  readonly class: number;
  readonly isRecursive: boolean;
  /** The question's own bytes: an answer repeats them, upper and lower case as they were. */
  readonly bytes: Uint8Array;
}

/** A record of an answer: one IPv4 address. */
export interface Answer {
  readonly addresses: readonly number[];
  readonly ttlSeconds: number;
}

export const TYPE_A = 1;
export const CLASS_IN = 1;
/** What an answer says of the question. */
export const CODES = { ok: 0, malformed: 1, failed: 2, unknown: 3, unsupported: 4 } as const;
export type Code = keyof typeof CODES;

const HEADER_BYTES = 12;
const MAX_NAME_BYTES = 255;
const MAX_LABEL_BYTES = 63;
const IS_ANSWER = 0x8000;
const OPCODE = 0x7800;
const RECURSION_DESIRED = 0x0100;
const RECURSION_AVAILABLE = 0x0080;
/** The name of the question, by its place in the message. */
const NAME_OF_QUESTION = 0xc000 | HEADER_BYTES;

/**
 * Reads a question. A question has one name, whole and not packed; what follows it (such as extensions of the sender's) is not read. Null for what is
 * no question or cannot be answered, to which nothing should be said.
 */
export function parseQuestion(message: Uint8Array): Question | null {
  const bytes = Buffer.from(message.buffer, message.byteOffset, message.byteLength);
  if (bytes.length < HEADER_BYTES) return null;
  const flags = bytes.readUInt16BE(2);
  if ((flags & (IS_ANSWER | OPCODE)) !== 0 || bytes.readUInt16BE(4) !== 1) return null;
  const labels: string[] = [];
  let at = HEADER_BYTES;
  for (;;) {
    const length = bytes[at];
    if (length === undefined || length > MAX_LABEL_BYTES) return null;
    at += 1;
    if (length === 0) break;
    if (at + length > bytes.length || at + length - HEADER_BYTES > MAX_NAME_BYTES - 1) return null;
    const label = bytes.toString('latin1', at, at + length);
    if (label.includes('.')) return null;
    labels.push(label);
    at += length;
  }
  if (at + 4 > bytes.length) return null;
  return {
    id: bytes.readUInt16BE(0),
    name: labels.join('.').replace(/[A-Z]/g, (letter) => letter.toLowerCase()),
    type: bytes.readUInt16BE(at),
    class: bytes.readUInt16BE(at + 2),
    isRecursive: (flags & RECURSION_DESIRED) !== 0,
    bytes: bytes.subarray(HEADER_BYTES, at + 4),
  };
}

/** The message that answers a question; without addresses it says what there is to say by its code. */
export function answerTo(question: Question, code: Code, { addresses, ttlSeconds }: Answer = NO_ANSWER): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16BE(question.id, 0);
  header.writeUInt16BE(
    IS_ANSWER | (question.isRecursive ? RECURSION_DESIRED : 0) | RECURSION_AVAILABLE | CODES[code],
    2,
  );
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(addresses.length, 6);
  const records = addresses.map((address) => {
    const record = Buffer.alloc(16);
    record.writeUInt16BE(NAME_OF_QUESTION, 0);
    record.writeUInt16BE(TYPE_A, 2);
    record.writeUInt16BE(CLASS_IN, 4);
    record.writeUInt32BE(ttlSeconds, 6);
    record.writeUInt16BE(4, 10);
    record.writeUInt32BE(address, 12);
    return record;
  });
  return Buffer.concat([header, question.bytes, ...records]);
}

const NO_ANSWER: Answer = { addresses: [], ttlSeconds: 0 };
