import { z } from 'zod';

/**
 * Ids are a prefix and the 26 Crockford base-32 characters of a UUIDv7 (RFC 9562), so they sort by time of
 * creation; those of one maker in its order. An id names; it never authorises.
 */
export const ID_PREFIXES = {
  function: 'fn',
  execution: 'ex',
  batch: 'ba',
  attempt: 'at',
  worker: 'wk',
  project: 'pj',
  owner: 'ow',
  key: 'ky',
  joinToken: 'jt',
} as const;

export type IdKind = keyof typeof ID_PREFIXES;

const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';
const BODY = `[0-7][${ALPHABET}]{25}`;
const ANY_ID = new RegExp(`^(?:${Object.values(ID_PREFIXES).join('|')})_${BODY}$`);

const idSchema = (kind: IdKind) =>
  z
    .string()
    .regex(new RegExp(`^${ID_PREFIXES[kind]}_${BODY}$`), `must be an id that begins with ${ID_PREFIXES[kind]}_`);

export const FunctionId = idSchema('function');
export const ExecutionId = idSchema('execution');
export const BatchId = idSchema('batch');
export const AttemptId = idSchema('attempt');
export const WorkerId = idSchema('worker');
export const ProjectId = idSchema('project');
export const KeyId = idSchema('key');

/**
 * Makes a new id.
 *
 * @param nowMs milliseconds since the Unix epoch
 * @param random 10 random bytes
 */
export function makeId(kind: IdKind, nowMs: number, random: Uint8Array): string {
  return idOf(kind, uuidOf(nowMs, random));
}

/** A clock that is set back by no more than this is taken to stand still. */
const MAX_STEP_BACK_MS = 1_000;
/** The random bits behind the variant. */
const TAIL_BITS = 62n;

/** Makes ids that sort in the order in which they were made, those of one millisecond too (RFC 9562, 6.2, method 2). */
export class IdMaker {
  #last = 0n;
  #atMs = -Infinity;

  /** As `makeId`. */
  make(kind: IdKind, nowMs: number, random: Uint8Array): string {
    const uuid = uuidOf(nowMs, random);
    if (nowMs > this.#atMs || this.#atMs - nowMs > MAX_STEP_BACK_MS) {
      this.#atMs = nowMs;
      // Below half of what there is, so that those that follow in this millisecond find room.
      this.#last = uuid & ~(1n << (TAIL_BITS - 1n));
    } else {
      this.#last += (uuid & 0xffff_ffffn) + 1n;
    }
    return idOf(kind, this.#last);
  }
}

function uuidOf(nowMs: number, random: Uint8Array): bigint {
  if (random.length !== 10) throw new RangeError('an id needs 10 random bytes');
  const uuid = new Uint8Array(16);
  let time = nowMs;
  for (let at = 5; at >= 0; at -= 1) {
    uuid[at] = time % 256;
    time = Math.floor(time / 256);
  }
  uuid.set(random, 6);
  uuid[6] = 0x70 | (uuid[6]! & 0x0f);
  uuid[8] = 0x80 | (uuid[8]! & 0x3f);
  let bits = 0n;
  for (const byte of uuid) bits = (bits << 8n) | BigInt(byte);
  return bits;
}

function idOf(kind: IdKind, uuid: bigint): string {
  let bits = uuid;
  let body = '';
  for (let at = 0; at < 26; at += 1) {
    body = ALPHABET[Number(bits & 31n)]! + body;
    bits >>= 5n;
  }
  return `${ID_PREFIXES[kind]}_${body}`;
}

export function isId(text: string): boolean {
  return ANY_ID.test(text);
}

/** The letter case and look-alikes that Crockford's base 32 forgives are not accepted: one id has one spelling. */
export function isIdOf(kind: IdKind, text: string): boolean {
  return text.startsWith(`${ID_PREFIXES[kind]}_`) && ANY_ID.test(text);
}

/** Names are for people: lower case letters, digits and hyphens, and never something that looks like an id. */
export const FunctionName = z
  .string()
  .regex(/^[a-z][a-z0-9-]{0,62}$/, 'must be 1 to 63 lower case letters, digits and hyphens, beginning with a letter')
  .refine((name) => !isId(name), 'must not look like an id');

export const Sha256 = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'must be sha256: and 64 hexadecimal digits');
export type Sha256 = z.infer<typeof Sha256>;
