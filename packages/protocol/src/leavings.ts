import { z } from 'zod';
import { decodeUtf8 } from './bytes.ts';
import { Sha256 } from './ids.ts';
import { MAX_JSON_DEPTH, MAX_RESULT_BYTES } from './limits.ts';

/**
 * What an attempt sends, apart from each other: its two output streams, and what its function leaves when its process has ended. `result` is JSON
 * text; `artifacts` is a tar archive, which `guest/agent/archive.h` describes.
 */
export const AttemptStream = z.enum(['stdout', 'stderr', 'result', 'artifacts']);
export type AttemptStream = z.infer<typeof AttemptStream>;

/** In the order of their numbers on the wire, which begin with 1. */
export const ATTEMPT_STREAMS = AttemptStream.options;

/** A value of each stream. */
export type OfStreams<T> = Record<AttemptStream, T>;

export function ofStreams<T>(make: (stream: AttemptStream) => T): OfStreams<T> {
  return {
    stdout: make('stdout'),
    stderr: make('stderr'),
    result: make('result'),
    artifacts: make('artifacts'),
  };
}

/** A whole stream, as its worker tells it at the end. */
export const StreamEnd = z.object({
  bytes: z.int().min(0),
  sha256: Sha256,
  truncated: z.boolean(),
  /** The first byte that the digest is of, where that is not the stream's first: a daemon that began anew has none of what came before. */
  hashFrom: z.int().min(1).optional(),
});
export type StreamEnd = z.infer<typeof StreamEnd>;

/** Where the function sees the directory that it leaves things in. */
export const EXCHANGE_DIRECTORY = '/cocore';
/** `$COCORE_RESULT` and `$COCORE_OUT`. */
export const RESULT_PATH = `${EXCHANGE_DIRECTORY}/result`;
export const ARTIFACTS_PATH = `${EXCHANGE_DIRECTORY}/out`;

/** An object with this key alone is, of a process that failed, the exception that ended it; a handler's bootstrap writes it. */
export const EXCEPTION_KEY = '$cocoreError';

const MAX_TYPE_LENGTH = 256;
const MAX_MESSAGE_LENGTH = 16 * 1024;
const MAX_STACK_LENGTH = 64 * 1024;

/** An exception that a handler did not catch. Each text is cut at its limit. */
export const FunctionError = z.object({
  /** The name of its class. */
  type: z.string(),
  message: z.string(),
  /** As its language prints it; null where there is none. */
  stack: z.string().nullable(),
});
export type FunctionError = z.infer<typeof FunctionError>;

const cut = (max: number) => z.string().transform((text) => text.slice(0, max).toWellFormed());
const Exception = z.strictObject({
  [EXCEPTION_KEY]: z.object({
    type: cut(MAX_TYPE_LENGTH),
    message: cut(MAX_MESSAGE_LENGTH),
    stack: cut(MAX_STACK_LENGTH)
      .nullish()
      .transform((stack) => stack ?? null),
  }),
});

/** Whether a JSON value has more levels of arrays and objects than `levels`: what reads it later may be recursive. */
export function isDeeperThan(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeeperThan(inner, levels - 1));
}

/** What a result file says. */
export type ParsedResult =
  | { readonly kind: 'none' }
  | { readonly kind: 'value'; readonly json: string }
  | { readonly kind: 'exception'; readonly error: FunctionError }
  /** `message` says what is wrong, and where. */
  | { readonly kind: 'invalid'; readonly message: string };

/**
 * Reads what a function wrote to `$COCORE_RESULT`. No bytes are no result.
 *
 * @param failed whether its process ended by itself with a code that is not 0: only then can it be an exception
 */
export function parseResult(bytes: Uint8Array, failed: boolean): ParsedResult {
  if (bytes.length === 0) return { kind: 'none' };
  if (bytes.length > MAX_RESULT_BYTES)
    return invalid(`is ${bytes.length} bytes long, of which it may be ${MAX_RESULT_BYTES}`);
  const json = decodeUtf8(bytes);
  if (json === null) return invalid('is not UTF-8');
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    return invalid(`is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (isDeeperThan(value, MAX_JSON_DEPTH)) return invalid(`is nested deeper than ${MAX_JSON_DEPTH} levels`);
  const exception = failed ? Exception.safeParse(value) : null;
  if (exception?.success === true) return { kind: 'exception', error: exception.data[EXCEPTION_KEY] };
  return { kind: 'value', json: json.trim() };
}

const invalid = (what: string): ParsedResult => ({
  kind: 'invalid',
  message: `the result ${what}`.slice(0, 500).toWellFormed(),
});
