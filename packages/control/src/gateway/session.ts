import type { KeyObject } from 'node:crypto';
import type { Duplex } from 'node:stream';
import {
  assertNever,
  type AttemptPreparing,
  type Capabilities,
  CocoreError,
  decodeOutputFrame,
  type OutputFrame,
  parseWorkerMessage,
  type ServerMessage,
  type StopKind,
  type WorkerBlobs,
  type WorkerMessage,
} from '@cocore/protocol';
import type { Logger } from 'pino';
import type { WebSocket } from 'ws';
import type { LiveAttempt, Stopping, WorkerLink } from '../dispatch/live-attempt.ts';
import { EndSignatures } from './end-signatures.ts';
import { Outbox } from './outbox.ts';

/** Received and not yet worked off; beyond it the socket is not read. */
const PAUSE_BYTES = 4 * 1024 * 1024;
const RESUME_BYTES = 1 * 1024 * 1024;
/** What a message costs while it waits, however short it is. */
const MIN_MESSAGE_BYTES = 512;
/** While so much is unsent, its worker is not heard: that makes answers. More than the window of assignments and the longest of them. */
export const MAX_UNSENT_BYTES = 10 * 1024 * 1024;
/** What a close frame has room for (RFC 6455, 5.5). */
const MAX_REASON_BYTES = 123;

/** What a worker says about one attempt. */
export type AttemptReport = Extract<
  WorkerMessage,
  { type: 'AttemptAccepted' | 'AttemptRefused' | 'AttemptStarted' | 'AttemptEnded' }
>;
export type Heartbeat = Extract<WorkerMessage, { type: 'WorkerHeartbeat' }>;

export interface SessionFacts {
  readonly workerId: string;
  readonly sessionId: string;
  readonly publicKey: KeyObject;
  readonly capabilities: Capabilities;
  readonly openedAtMs: number;
  readonly stopping: StopKind | null;
}

/** What a session hands on. Each promise resolves when the message is worked off. */
export interface SessionHandler {
  report(session: WorkerSession, report: AttemptReport): Promise<void>;
  output(session: WorkerSession, attempt: LiveAttempt, frame: OutputFrame): Promise<void>;
  /** It has said something. */
  heard(session: WorkerSession): void;
  heartbeat(session: WorkerSession, heartbeat: Heartbeat): void;
  preparing(session: WorkerSession, preparing: AttemptPreparing): void;
  blobs(session: WorkerSession, blobs: WorkerBlobs): void;
  /** It takes nothing more. */
  stopping(session: WorkerSession, how: StopKind): void;
  /** It broke the contract, and is about to be closed for it. */
  faulted(session: WorkerSession, error: CocoreError): void;
  closed(session: WorkerSession): void;
}

/** One WebSocket of a worker whose identity is proven. It reads no faster than its messages are worked off. */
export class WorkerSession implements WorkerLink {
  readonly workerId: string;
  readonly sessionId: string;
  readonly ends: EndSignatures;
  readonly capabilities: Capabilities;
  lastBeatAtMs: number;
  stopping: Stopping | null;
  readonly #socket: WebSocket;
  readonly #stream: Duplex;
  readonly #outbox: Outbox;
  #corked = false;
  readonly #handler: SessionHandler;
  readonly #log: Logger;
  readonly #channels = new Map<number, LiveAttempt>();
  readonly #channelOf = new Map<LiveAttempt, number>();
  #lastChannel = 0;
  #unworkedBytes = 0;
  #closed = false;

  /** @param stream what the WebSocket writes to */
  constructor(socket: WebSocket, stream: Duplex, facts: SessionFacts, handler: SessionHandler, log: Logger) {
    this.workerId = facts.workerId;
    this.sessionId = facts.sessionId;
    this.ends = new EndSignatures(facts.publicKey);
    this.capabilities = facts.capabilities;
    this.lastBeatAtMs = facts.openedAtMs;
    this.stopping = facts.stopping === null ? null : { how: facts.stopping, sinceMs: facts.openedAtMs };
    this.#socket = socket;
    this.#stream = stream;
    this.#outbox = new Outbox(socket, () => this.#regulate());
    this.#handler = handler;
    this.#log = log;
  }

  get isBehind(): boolean {
    return this.#socket.isPaused;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Begins to read. */
  start(): void {
    this.#socket.on('message', (data, isBinary) => this.#receive(data as Buffer, isBinary));
    this.#socket.once('close', () => this.#end());
    if (this.#socket.readyState !== this.#socket.OPEN) this.#end();
  }

  get unsentBytes(): number {
    return this.#outbox.unsentBytes;
  }

  get leftBytes(): number {
    return this.#outbox.leftBytes;
  }

  send(message: ServerMessage, sent?: () => void): void {
    if (this.#closed) return;
    this.#cork();
    this.#outbox.send(message, sent ?? null);
  }

  bind(attempt: LiveAttempt): number {
    this.#lastChannel += 1;
    this.#channels.set(this.#lastChannel, attempt);
    this.#channelOf.set(attempt, this.#lastChannel);
    return this.#lastChannel;
  }

  unbind(attempt: LiveAttempt): void {
    const channel = this.#channelOf.get(attempt);
    if (channel === undefined) return;
    this.#channelOf.delete(attempt);
    this.#channels.delete(channel);
  }

  channelOf(attempt: LiveAttempt): number | undefined {
    return this.#channelOf.get(attempt);
  }

  /** The digests of the attempts that are bound to this session. */
  mayFetch(digest: string): boolean {
    for (const attempt of this.#channels.values()) if (attempt.blobs.includes(digest)) return true;
    return false;
  }

  close(code: number, reason: string): void {
    this.#socket.close(code, cutReason(reason));
    // A socket that is not read any more would never see the other side's close frame.
    this.#socket.resume();
    this.#end();
  }

  cut(): void {
    this.#socket.terminate();
    this.#end();
  }

  /** The worker broke the contract. */
  fault(error: CocoreError): void {
    if (this.#closed) return;
    this.#handler.faulted(this, error);
    this.close(1008, `${error.code}: ${error.message}`);
  }

  /** What is sent in one turn of the event loop leaves in one write. */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#stream.cork();
    setImmediate(() => {
      this.#corked = false;
      this.#stream.uncork();
    });
  }

  #end(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#outbox.close();
    this.#handler.closed(this);
  }

  #receive(data: Buffer, isBinary: boolean): void {
    if (this.#closed) return;
    this.#handler.heard(this);
    const costBytes = Math.max(data.length, MIN_MESSAGE_BYTES);
    this.#unworkedBytes += costBytes;
    this.#regulate();
    const worked = () => {
      this.#unworkedBytes -= costBytes;
      this.#regulate();
    };
    try {
      const work = isBinary
        ? this.#receiveOutput(data)
        : this.#receiveMessage(parseWorkerMessage(data.toString('utf8')));
      work.then(worked, (error: unknown) => this.#failed(error));
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Reads while what was read is worked off, and what is answered is taken. */
  #regulate(): void {
    if (this.#closed) return;
    const isStuffed = this.#outbox.unsentBytes > MAX_UNSENT_BYTES;
    if (isStuffed || this.#unworkedBytes > PAUSE_BYTES) this.#socket.pause();
    else if (this.#socket.isPaused && this.#unworkedBytes < RESUME_BYTES) this.#socket.resume();
  }

  #failed(error: unknown): void {
    if (error instanceof CocoreError) {
      this.fault(error);
      return;
    }
    this.#log.error({ err: error, workerId: this.workerId }, 'a report could not be worked off');
    this.close(1011, 'internal');
  }

  #receiveOutput(data: Buffer): Promise<void> {
    const frame = decodeOutputFrame(data);
    const attempt = this.#channels.get(frame.channel);
    if (attempt !== undefined) return this.#handler.output(this, attempt, frame);
    // A channel that was open may have output under way; one that never was is a fault.
    if (frame.channel > this.#lastChannel) {
      throw new CocoreError('protocol_violation', `channel ${frame.channel} was never given`);
    }
    return Promise.resolve();
  }

  #receiveMessage(message: WorkerMessage | null): Promise<void> {
    // Of a later release; what must be understood needs a later version of the protocol.
    if (message === null) return Promise.resolve();
    switch (message.type) {
      case 'AttemptAccepted':
      case 'AttemptRefused':
      case 'AttemptStarted':
      case 'AttemptEnded':
        return this.#handler.report(this, message);
      case 'WorkerHeartbeat':
        this.#handler.heartbeat(this, message);
        return Promise.resolve();
      case 'AttemptPreparing':
        this.#handler.preparing(this, message);
        return Promise.resolve();
      case 'WorkerBlobs':
        this.#handler.blobs(this, message);
        return Promise.resolve();
      case 'WorkerStopping':
        this.#handler.stopping(this, message.how);
        return Promise.resolve();
      case 'WorkerHello':
        throw new CocoreError('protocol_violation', 'a session says hello once');
      default:
        return assertNever(message);
    }
  }
}

/** The reason may quote what a worker sent, in any script: it is cut at a whole character. */
function cutReason(reason: string): string {
  return new TextDecoder().decode(Buffer.from(reason).subarray(0, MAX_REASON_BYTES), { stream: true });
}
