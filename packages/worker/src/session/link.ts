import { randomBytes } from 'node:crypto';
import { CocoreError, type ErrorCode } from '@cocore/protocol';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { SourceAway } from '../blobs/download.ts';
import type { Attempt } from '../execution/attempt.ts';
import { Session, type SessionParts } from './session.ts';

export interface LinkParts extends Omit<SessionParts, 'attempts' | 'instance' | 'isUnknown'> {
  /** Between 0 and 1, for the jitter of reconnections. */
  readonly random?: () => number;
}

/** Refusals that trying again cannot change. */
const FATAL: ReadonlySet<ErrorCode> = new Set([
  'join_token_invalid',
  'signature_invalid',
  'protocol_version',
  'server_mismatch',
]);

const FIRST_DELAY_MS = 200;
const MAX_DELAY_MS = 5_000;
/** Somebody has to do something first. */
const UNKNOWN_DELAY_MS = 30_000;

/**
 * The link to the control server for the daemon's life: one session after the other, with growing pauses and jitter between failed
 * ones, for ever; attempts go on meanwhile.
 */
export class Link implements AsyncDisposable {
  readonly #parts: LinkParts;
  readonly #instance = randomBytes(16).toString('base64url');
  readonly #stop = new AbortController();
  readonly #joined = Promise.withResolvers<string>();
  #session: Session | null = null;
  /** The server has said so, and has not welcomed this worker since. */
  #isUnknown = false;

  constructor(parts: LinkParts) {
    this.#parts = parts;
    const { identity, joinToken, endpoint } = parts;
    endpoint.pin = identity.joined?.certificateSha256 ?? joinToken?.content.certificateSha256 ?? null;
    this.#joined.promise.catch(() => undefined);
  }

  /** Resolves with the worker's id at the first welcome. Rejects when a refusal is final before. */
  get joined(): Promise<string> {
    return this.#joined.promise;
  }

  /** Whether reports reach the control server now. */
  get connected(): boolean {
    return (this.#session?.blobToken ?? null) !== null;
  }

  /** Whether ends may share a signature: the server of this session takes them. */
  get takesSharedSignatures(): boolean {
    return this.#session?.takesSharedSignatures ?? false;
  }

  /** Something of the attempt is new. */
  tell(attempt: Attempt): void {
    this.#session?.tell(attempt);
  }

  /** Nothing more is taken. */
  tellStopping(): void {
    this.#session?.tellStopping();
  }

  /** Large blobs have come or gone. */
  tellBlobs(): void {
    this.#session?.tellBlobs();
  }

  /** A blob from a byte on, by the credential of the current session. @throws SourceAway while there is none */
  async blob(digest: string, signal: AbortSignal, from: number): Promise<Readable> {
    const token = this.#session?.blobToken ?? null;
    if (token === null) throw new SourceAway('there is no session with the control server');
    return this.#parts.endpoint.blob(digest, token, signal, from);
  }

  /** Dials until stopped. @throws CocoreError a refusal that is final */
  async run(attempts: SessionParts['attempts']): Promise<void> {
    const { log, random = Math.random } = this.#parts;
    try {
      for (let failures = 0; !this.#stop.signal.aborted;) {
        const session = new Session({ ...this.#parts, instance: this.#instance, isUnknown: this.#isUnknown, attempts });
        this.#session = session;
        const workerId = await session.workerId.catch(() => null);
        if (workerId === null) failures += 1;
        else {
          failures = 0;
          this.#isUnknown = false;
          log.info({ workerId }, 'welcomed by the control server');
          this.#joined.resolve(workerId);
        }
        const why = await session.closed;
        this.#session = null;
        if (this.#isFinal(why)) throw why;
        if (this.#stop.signal.aborted) return;
        const maxDelayMs = this.#isUnknown ? UNKNOWN_DELAY_MS : MAX_DELAY_MS;
        const delayMs = Math.min(FIRST_DELAY_MS * 2 ** failures, maxDelayMs) * (0.5 + random() / 2);
        log.warn(
          { why: why.message, delayMs: Math.round(delayMs) },
          'no session with the control server; trying again',
        );
        await sleep(delayMs, undefined, { signal: this.#stop.signal }).catch(() => undefined);
      }
    } catch (error) {
      this.#joined.reject(error);
      throw error;
    }
  }

  /**
   * A server that does not know a worker which had joined may have been restored from a backup: it may be given a newer one, or a join token that this
   * worker was given too.
   */
  #isFinal(why: Error): boolean {
    if (!(why instanceof CocoreError)) return false;
    const { log, identity } = this.#parts;
    if (identity.joined === null) return FATAL.has(why.code);
    if (why.code === 'worker_unknown') this.#isUnknown = true;
    if (why.code !== 'worker_unknown' && !(this.#isUnknown && why.code === 'join_token_invalid'))
      return FATAL.has(why.code);
    const { workerId } = identity.joined;
    log.error({ workerId, remedy: why.remedy }, 'the control server does not know this worker any more');
    return false;
  }

  /** Ends the session and dials no more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#session?.close();
    await this.#session?.closed;
  }
}
