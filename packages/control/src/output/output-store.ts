import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, rm } from 'node:fs/promises';
import {
  ATTEMPT_STREAMS,
  type AttemptStream,
  CocoreError,
  MAX_RESULT_BYTES,
  OUTPUT_WINDOW_BYTES,
  type OfStreams,
  ofStreams,
  type OutputFrame,
  type Sha256,
} from '@cocore/protocol';
import {
  type AttemptKey,
  INLINE_OUTPUT_BYTES,
  type OutputGrowth,
  type RemovedOutput,
  type Reported,
  type Store,
} from '../store/store.ts';
import type { OutputArchive } from './output-archive.ts';
import { RecentOutput } from './recent-output.ts';
import { openSegment, readSegment, segmentPath, writeSegment } from './segments.ts';

const EMPTY_SHA256: Sha256 = `sha256:${createHash('sha256').digest('hex')}`;
/** A session begins at what is committed, so it has little to repeat; each frame that repeats counts as this much at least. */
const REPEATABLE_BYTES = 4 * OUTPUT_WINDOW_BYTES;
const MIN_REPEATED_BYTES = 4 * 1024;

/**
 * The bytes that attempts write, addressed by (attempt, stream, offset): the first of each stream in the store, the rest in one append-only file each;
 * or all of them in the store. Where there is an archive, what is beyond the first goes there once nothing is added to it any more.
 * A stream's committed length moves only after its bytes are durable; what a file holds beyond it never counts.
 */
export class OutputStore {
  readonly #directory: string | null;
  readonly #store: Store;
  readonly #archive: OutputArchive | null;
  /** So much of each stream is in the store. */
  readonly inlineBytes: number;
  readonly recent = new RecentOutput();
  readonly #writers = new Map<string, OutputWriter>();

  /**
   * @param directory of the files; null for none: then all is in the store
   * @param archive where output of what has ended is taken to; null where it stays
   */
  constructor(directory: string | null, store: Store, archive: OutputArchive | null = null) {
    this.#directory = directory;
    this.#store = store;
    this.#archive = archive;
    this.inlineBytes = directory === null ? Infinity : INLINE_OUTPUT_BYTES;
  }

  /** The writer of a live attempt; one at a time for each. */
  writer(attempt: AttemptKey, committed: OfStreams<number>, limits: StreamLimits): OutputWriter {
    const writer = new OutputWriter(this.#store, this, attempt, committed, limits);
    this.#writers.set(attempt.attemptId, writer);
    return writer;
  }

  /** To be called when the writer is disposed of. */
  forgetWriter(attemptId: string, writer: OutputWriter): void {
    if (this.#writers.get(attemptId) === writer) this.#writers.delete(attemptId);
  }

  /** How much is committed of each stream of an attempt that is written to here; null for one that is not. */
  committed(attemptId: string): OfStreams<number> | null {
    const writer = this.#writers.get(attemptId);
    return writer === undefined ? null : ofStreams((stream) => writer.committed(stream));
  }

  /**
   * Committed bytes from `offset` up to (not including) `end`, in pieces. What is not here any more is in the archive, also when it went there meanwhile.
   *
   * @throws CocoreError `not_ready` where the archive is needed and does not answer, or is not given to this server
   */
  async *read(attempt: AttemptKey, stream: AttemptStream, offset: number, end: number): AsyncGenerator<Uint8Array> {
    let at = offset;
    for await (const bytes of this.#readHere(attempt, stream, offset, end)) {
      at += bytes.length;
      yield bytes;
    }
    if (at >= end) return;
    if (this.#archive === null) throw missing(attempt);
    for await (const bytes of this.#archive.read(attempt.attemptId, stream, at, end)) {
      at += bytes.length;
      yield bytes;
    }
    if (at < end) throw missing(attempt);
  }

  /** As far as it is in memory, in the store and in files. */
  async *#readHere(
    attempt: AttemptKey,
    stream: AttemptStream,
    offset: number,
    end: number,
  ): AsyncGenerator<Uint8Array> {
    let at = offset;
    while (at < end) {
      const bytes = this.recent.at(attempt.attemptId, stream, at)?.subarray(0, end - at);
      if (bytes === undefined) break;
      at += bytes.length;
      yield bytes;
    }
    while (at < Math.min(end, this.inlineBytes)) {
      const chunks = await this.#store.readInline(attempt, stream, at);
      if (chunks.length === 0) return;
      for (const chunk of chunks) {
        const bytes = chunk.subarray(0, end - at);
        if (bytes.length === 0) break;
        at += bytes.length;
        yield bytes;
      }
    }
    if (at >= end) return;
    try {
      yield* readSegment(this.segmentPath(attempt, stream), at, end);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }

  /** As `read`, in one piece. */
  async readAll(attempt: AttemptKey, stream: AttemptStream, offset: number, end: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for await (const piece of this.read(attempt, stream, offset, end)) pieces.push(piece);
    return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
  }

  /**
   * The files and objects of an attempt that is over and that nobody will read.
   *
   * @throws CocoreError `not_ready` where the archive is needed and does not answer, or is not given to this server
   */
  async remove({ attemptId, inArchive }: RemovedOutput): Promise<void> {
    await this.removeFiles(attemptId);
    if (!inArchive) return;
    if (this.#archive === null) throw missing({ attemptId });
    for (const stream of ATTEMPT_STREAMS) await this.#archive.remove(attemptId, stream);
  }

  /** Those of an attempt that is over, and whose output is elsewhere, or nowhere any more. */
  async removeFiles(attemptId: string): Promise<void> {
    if (this.#directory === null) return;
    for (const stream of ATTEMPT_STREAMS) await rm(this.segmentPath({ attemptId }, stream), { force: true });
  }

  segmentPath(attempt: Pick<AttemptKey, 'attemptId'>, stream: AttemptStream): string {
    if (this.#directory === null) throw new Error('output is kept in the store alone');
    return segmentPath(this.#directory, attempt.attemptId, stream);
  }
}

/** How long the streams of one attempt may be; a result's limit is the same for all. */
export interface StreamLimits {
  /** Of both output streams together. */
  readonly outputBytes: number;
  readonly artifactsBytes: number;
}

interface StreamState {
  /** Durable, and known to be. */
  committed: number;
  /** What the store was asked to commit; at least `committed`. */
  asked: number;
  /** Of all bytes up to `asked`; null when they have to be read again first (after a restart), or when there are none. */
  hash: Hash | null;
  file: FileHandle | null;
}

type Record = (growth: readonly OutputGrowth[]) => Promise<Reported>;

/** Output that the store was asked to commit. */
export interface Append {
  readonly reported: Promise<Reported>;
}

/** Appends one attempt's output. A call must wait until the one before it has resolved, but not until it is committed. */
export class OutputWriter implements AsyncDisposable {
  readonly #store: Store;
  readonly #output: OutputStore;
  readonly #attempt: AttemptKey;
  readonly #limits: StreamLimits;
  readonly #streams: OfStreams<StreamState>;
  #lastCommit: Promise<unknown> = Promise.resolve();
  #lastSession = '';
  /** Another has the attempt now, and the store said so. */
  #staleSession: string | null = null;
  #hasFailed = false;
  #isDisposed = false;
  /** What the current session may still repeat. */
  #repeatableBytes = REPEATABLE_BYTES;

  constructor(
    store: Store,
    output: OutputStore,
    attempt: AttemptKey,
    committed: OfStreams<number>,
    limits: StreamLimits,
  ) {
    this.#store = store;
    this.#output = output;
    this.#attempt = attempt;
    this.#limits = limits;
    const stream = (bytes: number): StreamState => ({ committed: bytes, asked: bytes, hash: null, file: null });
    this.#streams = ofStreams((name) => stream(committed[name]));
  }

  committed(stream: AttemptStream): number {
    return this.#streams[stream].committed;
  }

  /** The disk or the store could not keep something: nothing more is taken before `beginAgain`. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Whoever appends next begins again from what is committed. To be called when nothing is asked for any more. */
  beginAgain(): void {
    for (const state of Object.values(this.#streams)) forgetUncommitted(state);
    this.#hasFailed = false;
  }

  /**
   * Makes the frames durable, in order, in one commit. Bytes that were sent before must be the same bytes again.
   *
   * @param record asks the store to commit them
   * @throws CocoreError `protocol_violation` for a gap, an overlap with other bytes, too many repeated ones, or more than the output limit
   */
  async append(
    frames: readonly OutputFrame[],
    sessionId: string,
    record: Record = (growth) => this.#store.recordOutput(this.#attempt, sessionId, growth),
  ): Promise<Append> {
    if (sessionId === this.#staleSession) return { reported: Promise.resolve('stale') };
    if (this.#hasFailed && sessionId === this.#lastSession) throw new Error('output before this could not be kept');
    try {
      return await this.#append(frames, sessionId, record);
    } catch (error) {
      // What it was held against may have turned out meanwhile not to count.
      if (sessionId === this.#staleSession) return { reported: Promise.resolve('stale') };
      if (!(error instanceof CocoreError)) this.#hasFailed = true;
      throw error;
    }
  }

  async #append(frames: readonly OutputFrame[], sessionId: string, record: Record): Promise<Append> {
    if (sessionId !== this.#lastSession) {
      // What an earlier session sent and was not committed does not count: the new one begins at what is.
      await this.#lastCommit;
      this.beginAgain();
      this.#lastSession = sessionId;
      this.#repeatableBytes = REPEATABLE_BYTES;
    }
    const fresh = ofStreams((stream) => new Fresh(this.#streams[stream].asked, stream, frames));
    for (const frame of frames) {
      const { stream, offset, data } = frame;
      const overlap = fresh[stream].end - offset;
      if (overlap < 0) throw violation(`output of ${stream} has a gap before ${offset}`);
      if (overlap > 0) await this.#checkRepeated(frame, fresh[stream]);
      if (overlap < data.length) fresh[stream].push(data.subarray(overlap));
    }
    const ends = ofStreams((stream) => fresh[stream].end);
    this.#checkLimits(ends);
    const names = ATTEMPT_STREAMS.filter((stream) => fresh[stream].bytes.length > 0);
    if (names.length === 0) return { reported: this.#lastCommit.then(() => 'repeated') };
    const growth = await Promise.all(names.map((stream) => this.#makeDurable(stream, fresh[stream].bytes)));
    for (const stream of names) {
      (await this.#hashOf(stream)).update(fresh[stream].bytes);
      this.#streams[stream].asked = ends[stream];
    }
    const reported = this.#commit(sessionId, growth, (stream) => fresh[stream].bytes, record);
    this.#lastCommit = reported.catch(() => undefined);
    return { reported };
  }

  /** All that is committed of a stream, once what was asked for is. */
  async readAll(stream: AttemptStream): Promise<Uint8Array> {
    await this.#lastCommit;
    return this.#output.readAll(this.#attempt, stream, 0, this.#streams[stream].committed);
  }

  /** The digest of all that was appended. */
  async digest(stream: AttemptStream): Promise<Sha256> {
    if (this.#streams[stream].asked === 0) return EMPTY_SHA256;
    return `sha256:${(await this.#hashOf(stream)).copy().digest('hex')}`;
  }

  /** The digest of what is committed from an offset on. */
  async digestFrom(stream: AttemptStream, offset: number): Promise<Sha256> {
    await this.#lastCommit;
    return `sha256:${(await this.#hashOfCommitted(stream, offset)).digest('hex')}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true;
    this.#output.forgetWriter(this.#attempt.attemptId, this);
    for (const state of Object.values(this.#streams)) {
      const { file } = state;
      state.file = null;
      await file?.close();
    }
  }

  #checkLimits(ends: OfStreams<number>): void {
    const { outputBytes, artifactsBytes } = this.#limits;
    const tooLong = (what: string, limit: number) => violation(`${what} is longer than its limit of ${limit} bytes`);
    if (ends.stdout + ends.stderr > outputBytes) throw tooLong('output', outputBytes);
    if (ends.result > MAX_RESULT_BYTES) throw tooLong('a result', MAX_RESULT_BYTES);
    if (ends.artifacts > artifactsBytes) throw tooLong('an archive of artifacts', artifactsBytes);
  }

  /** @param bytesOf what each stream grows by */
  async #commit(
    sessionId: string,
    growth: readonly OutputGrowth[],
    bytesOf: (stream: AttemptStream) => Uint8Array,
    record: Record,
  ): Promise<Reported> {
    try {
      const reported = await record(growth);
      if (reported === 'recorded') {
        for (const { stream, from, to } of growth) {
          this.#streams[stream].committed = to;
          this.#output.recent.add(this.#attempt.attemptId, stream, from, bytesOf(stream));
        }
      } else if (reported === 'stale') this.#staleSession = sessionId;
      else this.#hasFailed = true;
      return reported;
    } catch (error) {
      this.#hasFailed = true;
      throw error;
    } finally {
      for (const { stream, to } of growth) {
        const state = this.#streams[stream];
        if (state.committed < to) forgetUncommitted(state);
      }
    }
  }

  async #hashOf(stream: AttemptStream): Promise<Hash> {
    const state = this.#streams[stream];
    if (state.hash !== null) return state.hash;
    await this.#lastCommit;
    state.hash = await this.#hashOfCommitted(stream, 0);
    return state.hash;
  }

  async #hashOfCommitted(stream: AttemptStream, offset: number): Promise<Hash> {
    const hash = createHash('sha256');
    const { committed } = this.#streams[stream];
    for await (const bytes of this.#output.read(this.#attempt, stream, offset, committed)) hash.update(bytes);
    return hash;
  }

  async #makeDurable(stream: AttemptStream, bytes: Uint8Array): Promise<OutputGrowth> {
    const state = this.#streams[stream];
    const from = state.asked;
    const inline = bytes.subarray(0, Math.max(0, this.#output.inlineBytes - from));
    const rest = bytes.subarray(inline.length);
    if (rest.length > 0) {
      state.file ??= await openSegment(this.#output.segmentPath(this.#attempt, stream));
      if (this.#isDisposed) {
        await this[Symbol.asyncDispose]();
        throw new Error('the attempt is over');
      }
      await writeSegment(state.file, rest, from + inline.length);
    }
    return { stream, from, to: from + bytes.length, inline: inline.length === 0 ? null : inline };
  }

  async #checkRepeated({ stream, offset, data }: OutputFrame, fresh: Fresh): Promise<void> {
    this.#repeatableBytes -= Math.max(data.length, MIN_REPEATED_BYTES);
    if (this.#repeatableBytes < 0) throw violation(`more of ${stream} is repeated than a session may`);
    const until = Math.min(fresh.end, offset + data.length);
    const known: Uint8Array[] = [];
    if (offset < fresh.start) {
      await this.#lastCommit;
      known.push(await this.#output.readAll(this.#attempt, stream, offset, Math.min(until, fresh.start)));
    }
    if (until > fresh.start) known.push(fresh.slice(Math.max(offset, fresh.start), until));
    if (!Buffer.concat(known).equals(data.subarray(0, until - offset))) {
      throw violation(`output of ${stream} at ${offset} differs from what came before`);
    }
  }
}

/** What one batch of frames adds to a stream, in one piece. */
class Fresh {
  readonly start: number;
  readonly #roomBytes: number;
  #room: Uint8Array | null = null;
  #bytes: Uint8Array = new Uint8Array(0);

  /** @param frames all that could be pushed are among them */
  constructor(start: number, stream: AttemptStream, frames: readonly OutputFrame[]) {
    this.start = start;
    this.#roomBytes = frames.reduce((sum, frame) => sum + (frame.stream === stream ? frame.data.length : 0), 0);
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get end(): number {
    return this.start + this.#bytes.length;
  }

  push(bytes: Uint8Array): void {
    if (bytes.length === this.#roomBytes) {
      this.#bytes = bytes;
      return;
    }
    this.#room ??= Buffer.allocUnsafe(this.#roomBytes);
    const { length } = this.#bytes;
    this.#room.set(bytes, length);
    this.#bytes = this.#room.subarray(0, length + bytes.length);
  }

  slice(from: number, until: number): Uint8Array {
    return this.#bytes.subarray(from - this.start, until - this.start);
  }
}

function forgetUncommitted(state: StreamState): void {
  if (state.asked === state.committed) return;
  state.asked = state.committed;
  state.hash = null;
}

const missing = ({ attemptId }: Pick<AttemptKey, 'attemptId'>) =>
  new CocoreError(
    'not_ready',
    `a part of the output of ${attemptId} is not here: is it in an --output-store that this server was not given?`,
  );
const violation = (message: string) => new CocoreError('protocol_violation', message);
