import {
  assertNever,
  type AttemptAssign,
  type BlobRef,
  type Capabilities,
  type AttemptEnded,
  CocoreError,
  endStatement,
  helloStatement,
  GATEWAY_PROTOCOL_VERSION,
  isErrorCode,
  isSharedSignature,
  parseServerMessage,
  type ServerMessage,
  type StopKind,
  type WorkerMessage,
} from '@cocore/protocol';
import type { Duplex } from 'node:stream';
import type { Logger } from 'pino';
import type { RawData, WebSocket } from 'ws';
import type { Attempts } from '../execution/attempts.ts';
import type { Attempt } from '../execution/attempt.ts';
import { type Clock, uptimeClock } from '../host/clock.ts';
import type { Identity } from '../identity.ts';
import type { Endpoint } from './endpoint.ts';
import type { JoinToken } from './join-token.ts';
import { type MessageSink, Outbox } from './outbox.ts';

export interface SessionParts {
  readonly endpoint: Pick<Endpoint, 'authority' | 'pin' | 'dial' | 'blob'>;
  readonly identity: Pick<Identity, 'publicKey' | 'joined' | 'sign' | 'join'>;
  readonly joinToken: JoinToken | null;
  /** Of this life of the daemon. */
  readonly instance: string;
  /** The server has said that it does not know this worker. */
  readonly isUnknown: boolean;
  readonly attempts: Attempts;
  readonly capabilities: Capabilities;
  readonly name: string;
  readonly daemonVersion: string;
  readonly platform: string;
  /** Digests of the large blobs that are here. */
  readonly largeBlobs: () => readonly string[];
  /** The server has heard what was sent at this time, by the uptime clock. */
  readonly onAnswered: (sentMs: number) => void;
  readonly log: Logger;
  readonly uptime?: Clock;
  /** A session in which nothing is heard for this long is given up. */
  readonly silenceMs?: number;
}

type Welcome = Extract<ServerMessage, { type: 'ServerWelcome' }>;
type Challenge = Extract<ServerMessage, { type: 'ServerChallenge' }>;

export const SILENCE_MS = 15_000;
/** Of older ones no answer is expected any more. */
const MAX_UNANSWERED_BEATS = 100;
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a connection that is closed may wait for the other end to close it too. */
const CLOSE_MS = 1_000;

/** An attempt that has a channel, and what was told of it. */
interface Bound {
  readonly channel: number;
  isStartedTold: boolean;
  fetchingTold: BlobRef | null;
}

/**
 * One connection to the control server, from dialling to its end. It says hello, resumes what goes on, and from then on carries
 * facts, output, and beats. It owns its socket and timers; the attempts outlive it.
 */
export class Session {
  /** Bearer for blobs; null before the welcome. */
  blobToken: string | null = null;
  readonly workerId: Promise<string>;
  /** Why the session ended; it never rejects. */
  readonly closed: Promise<Error>;
  readonly #parts: SessionParts;
  readonly #socket: WebSocket;
  /** What the WebSocket writes to; null before it is there. */
  #stream: Duplex | null = null;
  #isCorked = false;
  readonly #outbox: Outbox;
  readonly #log: Logger;
  readonly #uptime: Clock;
  readonly #silenceMs: number;
  readonly #welcomed = Promise.withResolvers<string>();
  readonly #closing = Promise.withResolvers<Error>();
  readonly #bound = new Map<string, Bound>();
  /** The attempt of each channel. */
  readonly #channels = new Map<number, string>();
  /** Whose end is only evidence, and whether it is told. No beat names them: they are nobody's. */
  readonly #givenUp = new Map<string, boolean>();
  #blobsTold = new Set<string>();
  #challenge: Challenge | null = null;
  #welcome: Welcome | null = null;
  #stoppingTold: StopKind | null = null;
  #sequence = 0;
  /** Heartbeats that are not acknowledged, and when they were sent. */
  readonly #beatsSentMs = new Map<number, number>();
  #heardAtMs: number;
  #timers: NodeJS.Timeout[] = [];
  #ended = false;

  constructor(parts: SessionParts) {
    this.#parts = parts;
    this.#log = parts.log;
    this.#uptime = parts.uptime ?? uptimeClock();
    this.#silenceMs = parts.silenceMs ?? SILENCE_MS;
    this.#heardAtMs = this.#uptime();
    this.workerId = this.#welcomed.promise;
    this.workerId.catch(() => undefined);
    this.closed = this.#closing.promise;
    this.#socket = parts.endpoint.dial();
    this.#outbox = new Outbox(this.#corked());
    this.#socket.once('upgrade', ({ socket }) => (this.#stream = socket));
    this.#socket.on('message', (data: RawData, isBinary: boolean) => this.#onMessage(data, isBinary));
    // In the middle of a long message they are all that can be heard.
    this.#socket.on('ping', () => (this.#heardAtMs = this.#uptime()));
    this.#socket.on('error', (error) => this.#end(error));
    this.#socket.on('close', (code, reason) => {
      const why = reason.length === 0 ? '' : `: ${reason.toString('utf8').slice(0, 200)}`;
      this.#end(new Error(`the server closed the session (${code}${why})`));
    });
    const handshake = setTimeout(
      () => this.#end(new Error(`the server did not welcome this worker within ${HANDSHAKE_TIMEOUT_MS} ms`)),
      HANDSHAKE_TIMEOUT_MS,
    );
    this.#timers.push(handshake);
  }

  /** Whether this server takes ends whose signature is shared. */
  get takesSharedSignatures(): boolean {
    return this.#welcome?.sharedSignatures === true && !this.#ended;
  }

  /** Something of the attempt is new: facts that can be told now are told, and its output is sent. */
  tell(attempt: Attempt): void {
    const { attemptId } = attempt;
    const bound = this.#bound.get(attemptId);
    if (bound !== undefined) {
      this.#tell(bound, attempt);
      this.#outbox.wake(bound.channel);
    } else if (this.#givenUp.has(attemptId)) this.#tellGivenUp(attemptId);
  }

  #corked(): MessageSink {
    const socket = this.#socket;
    return {
      get bufferedAmount() {
        return socket.bufferedAmount;
      },
      send: (data, written) => {
        if (!this.#isCorked) this.#stream?.cork();
        this.#isCorked = this.#stream !== null;
        socket.send(data, written);
      },
      flush: () => {
        if (this.#isCorked) this.#stream?.uncork();
        this.#isCorked = false;
      },
    };
  }

  /** Nothing more is taken. */
  tellStopping(): void {
    if (this.#welcome === null || this.#ended) return;
    const how = this.#parts.attempts.stopping;
    if (how === null || how === this.#stoppingTold) return;
    this.#stoppingTold = how;
    this.#outbox.send({ type: 'WorkerStopping', how });
  }

  /** Tells which large blobs have come and gone since it last told. */
  tellBlobs(): void {
    if (this.#welcome === null || this.#ended) return;
    const told = this.#blobsTold;
    const held = new Set(this.#parts.largeBlobs());
    const added = [...held].filter((digest) => !told.has(digest));
    const removed = [...told].filter((digest) => !held.has(digest));
    this.#blobsTold = held;
    if (added.length + removed.length > 0) this.#outbox.send({ type: 'WorkerBlobs', added, removed });
  }

  /** Closes the connection in good order, as far as the other end answers. */
  close(): void {
    this.#socket.close(1000, 'the worker stops');
    setTimeout(() => this.#socket.terminate(), CLOSE_MS).unref();
    this.#end(new Error('the worker stops'), false);
  }

  #end(error: Error, terminate = true): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const timer of this.#timers) clearInterval(timer);
    this.#outbox.close();
    this.blobToken = null;
    if (terminate) this.#socket.terminate();
    this.#welcomed.reject(error);
    this.#closing.resolve(error);
  }

  #onMessage(data: RawData, isBinary: boolean): void {
    if (this.#ended) return;
    try {
      const bytes = data as Buffer;
      if (isBinary) throw new CocoreError('protocol_violation', 'the server sent what is not a text message');
      const message = parseServerMessage(bytes.toString('utf8'));
      this.#heardAtMs = this.#uptime();
      // Null is one of a later release; what must be understood needs a later version of the protocol.
      if (message !== null) this.#receive(message);
    } catch (error) {
      this.#log.error({ err: error }, 'a message of the server is not accepted');
      this.#end(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #receive(message: ServerMessage): void {
    const { attempts } = this.#parts;
    switch (message.type) {
      case 'ServerChallenge':
        return this.#hello(message);
      case 'ServerWelcome':
        return this.#resume(message);
      case 'ServerRefusal':
        return this.#end(refusalOf(message));
      case 'AttemptAssign':
        return this.#assign(message);
      case 'AttemptCancel':
        return attempts.stop(message.attemptId, 'cancelled');
      case 'AttemptRevoke':
        return message.report === true ? this.#giveUp(message.attemptId) : this.#revoke(message.attemptId, message.why);
      case 'AttemptAcceptedAck':
        return attempts.acceptanceCommitted(message.attemptId);
      case 'AttemptEndedAck':
        attempts.forget(message.attemptId);
        if (attempts.get(message.attemptId) === undefined) this.#unbind(message.attemptId);
        return;
      case 'OutputAck': {
        const attempt = attempts.get(this.#channels.get(message.channel) ?? '');
        return attempt?.output.acknowledge(message.stream, message.offset);
      }
      case 'HeartbeatAck':
        this.#answered(message.sequence);
        for (const attemptId of message.cancel ?? []) attempts.stop(attemptId, 'cancelled');
        for (const attemptId of message.revoke ?? []) this.#revoke(attemptId, 'the server does not know it as ours');
        return;
      case 'DrainNotice':
        this.#log.info(
          message.draining
            ? 'the operator gives this worker nothing more'
            : 'the operator gives this worker work again',
        );
        return;
      default:
        return assertNever(message);
    }
  }

  #answered(sequence: number): void {
    const sentMs = this.#beatsSentMs.get(sequence);
    if (sentMs === undefined) return;
    for (const earlier of this.#beatsSentMs.keys()) if (earlier <= sequence) this.#beatsSentMs.delete(earlier);
    this.#parts.onAnswered(sentMs);
  }

  #revoke(attemptId: string, why: string): void {
    this.#log.warn({ attemptId, why }, 'an attempt was taken back');
    this.#parts.attempts.stop(attemptId, 'revoked');
    this.#unbind(attemptId);
  }

  #hello(challenge: Challenge): void {
    if (this.#challenge !== null) throw new CocoreError('protocol_violation', 'a second challenge');
    this.#challenge = challenge;
    this.#stoppingTold = this.#parts.attempts.stopping;
    const { identity, joinToken, endpoint, attempts } = this.#parts;
    const expected = identity.joined?.serverId ?? joinToken?.content.serverId ?? null;
    if (expected !== null && expected !== challenge.serverId) {
      throw new CocoreError(
        'server_mismatch',
        `${endpoint.authority} is server ${challenge.serverId}, not ${expected}`,
      );
    }
    const { publicKey } = identity;
    const { authority } = endpoint;
    const statement = helloStatement({ serverId: challenge.serverId, authority, nonce: challenge.nonce, publicKey });
    this.#outbox.send({
      type: 'WorkerHello',
      protocol: { min: GATEWAY_PROTOCOL_VERSION, max: GATEWAY_PROTOCOL_VERSION },
      daemonVersion: this.#parts.daemonVersion,
      platform: this.#parts.platform,
      name: this.#parts.name,
      publicKey,
      signature: identity.sign(statement),
      authority,
      instance: this.#parts.instance,
      ...(attempts.stopping === null ? {} : { stopping: attempts.stopping }),
      ...((identity.joined === null || this.#parts.isUnknown) && joinToken !== null
        ? { joinToken: joinToken.text }
        : {}),
      capabilities: this.#parts.capabilities,
      inventory: attempts.list().map(({ attemptId, startedAtMs, ended, output }) => ({
        attemptId,
        started: startedAtMs !== null,
        ...(ended === null ? {} : { ended: true, heldFrom: output.heldFrom }),
      })),
    });
  }

  #resume(welcome: Welcome): void {
    const { identity, attempts, endpoint } = this.#parts;
    if (this.#challenge === null || this.#welcome !== null) {
      throw new CocoreError('protocol_violation', 'a welcome out of order');
    }
    const { serverId } = this.#challenge;
    const { workerId, incarnation } = welcome;
    const known = identity.joined;
    const isOther = known?.incarnation !== undefined && incarnation !== undefined && known.incarnation !== incarnation;
    if (isOther) this.#dropUnknown(welcome);
    if (known?.workerId !== workerId || (incarnation !== undefined && known.incarnation !== incarnation)) {
      const told = incarnation === undefined ? {} : { incarnation };
      identity.join({ serverId, workerId, certificateSha256: endpoint.pin, ...told });
    }
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
    this.#welcome = welcome;
    this.blobToken = welcome.blobToken;
    const late = new Set(welcome.late);
    for (const attemptId of welcome.revoke) {
      if (late.has(attemptId)) this.#giveUp(attemptId);
      else attempts.stop(attemptId, 'revoked');
    }
    for (const { attemptId, channel, offsets } of welcome.resume) {
      const attempt = attempts.get(attemptId);
      if (attempt === undefined) continue;
      const gone = attempt.resume(offsets);
      if (gone.length > 0) {
        this.#log.error({ attemptId, streams: gone, offsets }, 'the server asks for output that is not here any more');
        attempt.loseOutput();
      }
      this.#open(channel, attempt);
    }
    this.tellBlobs();
    this.tellStopping();
    this.#heardAtMs = this.#uptime();
    this.#beat();
    this.#timers.push(setInterval(() => this.#beat(), welcome.heartbeatMs));
    this.#welcomed.resolve(welcome.workerId);
  }

  /** The server's store came out of a backup: what it does not resume is of a history that is no more. */
  #dropUnknown({ resume, late = [] }: Welcome): void {
    const { attempts } = this.#parts;
    // Those that it knows to have ended are given up, with their end as evidence.
    const known = new Set([...resume.map(({ attemptId }) => attemptId), ...late]);
    const unknown = attempts.list().filter(({ attemptId }) => !known.has(attemptId));
    this.#log.warn(
      { dropped: unknown.length },
      'the control server was restored from a backup; what it does not know is destroyed',
    );
    for (const { attemptId } of unknown) attempts.stop(attemptId, 'revoked');
  }

  #assign(assign: AttemptAssign): void {
    if (this.#welcome === null) throw new CocoreError('protocol_violation', 'an assignment before the welcome');
    const cause = this.#parts.attempts.assign(assign);
    if (cause !== null) {
      this.#outbox.send({ type: 'AttemptRefused', attemptId: assign.attemptId, cause });
      return;
    }
    const attempt = this.#parts.attempts.get(assign.attemptId);
    if (attempt !== undefined) this.#open(assign.channel, attempt);
  }

  /** Binds an attempt to this session's channel and tells what is known of it, again or for the first time. */
  #open(channel: number, attempt: Attempt): void {
    const { attemptId } = attempt;
    const bound: Bound = { channel, isStartedTold: false, fetchingTold: null };
    this.#unbind(attemptId);
    this.#bound.set(attemptId, bound);
    this.#channels.set(channel, attemptId);
    const accepted: WorkerMessage = { type: 'AttemptAccepted', attemptId, ...attempt.acceptance };
    this.#outbox.add(channel, attempt.output, accepted, attempt.hasNetwork);
    this.#tell(bound, attempt);
  }

  /** The control server has ended it without us: what is said of it now is how it ended here, as evidence. */
  #giveUp(attemptId: string): void {
    this.#unbind(attemptId);
    this.#log.warn({ attemptId }, 'an attempt was given up without us');
    this.#givenUp.set(attemptId, false);
    this.#parts.attempts.stop(attemptId, 'given_up');
    this.#tellGivenUp(attemptId);
  }

  #tellGivenUp(attemptId: string): void {
    const ended = this.#parts.attempts.get(attemptId)?.ended ?? null;
    if (ended === null || this.#givenUp.get(attemptId) === true) return;
    this.#givenUp.set(attemptId, true);
    this.#outbox.send(this.#inFormOfServer(ended));
  }

  #unbind(attemptId: string): void {
    const bound = this.#bound.get(attemptId);
    if (bound === undefined) return;
    this.#bound.delete(attemptId);
    this.#channels.delete(bound.channel);
    this.#outbox.remove(bound.channel);
  }

  #tell(bound: Bound, { attemptId, fetching, startedAtMs, ended }: Attempt): void {
    const { channel } = bound;
    if (fetching !== bound.fetchingTold) {
      bound.fetchingTold = fetching;
      this.#outbox.tell(channel, { type: 'AttemptPreparing', attemptId, fetching });
    }
    if (startedAtMs !== null && !bound.isStartedTold) {
      bound.isStartedTold = true;
      const agoMs = Math.max(0, this.#uptime() - startedAtMs);
      this.#outbox.tell(channel, { type: 'AttemptStarted', attemptId, agoMs });
    }
    if (ended !== null) this.#outbox.finish(channel, this.#inFormOfServer(ended));
  }

  /**
   * An end that shares its signature, told to an earlier release, is signed alone. It was not committed in the other form: a server that has an
   * attempt's end takes the attempt back in its welcome.
   */
  #inFormOfServer(ended: AttemptEnded): AttemptEnded {
    if (this.takesSharedSignatures || !isSharedSignature(ended.signature)) return ended;
    return { ...ended, signature: this.#parts.identity.sign(endStatement(ended)) };
  }

  #beat(): void {
    if (this.#uptime() - this.#heardAtMs > this.#silenceMs) {
      this.#end(new Error(`the server said nothing for ${this.#silenceMs} ms`));
      return;
    }
    const attempts = this.#parts.attempts.list().filter(({ attemptId }) => !this.#givenUp.has(attemptId));
    const beats = attempts.map((attempt) => ({ attemptId: attempt.attemptId, agentAgeMs: attempt.agentAgeMs() }));
    this.#beatsSentMs.set(this.#sequence, this.#uptime());
    this.#beatsSentMs.delete(this.#sequence - MAX_UNANSWERED_BEATS);
    const heartbeat: WorkerMessage = { type: 'WorkerHeartbeat', sequence: this.#sequence, attempts: beats };
    this.#sequence += 1;
    this.#outbox.send(heartbeat);
  }
}

function refusalOf({ code, message }: Extract<ServerMessage, { type: 'ServerRefusal' }>): CocoreError {
  return new CocoreError(
    isErrorCode(code) ? code : 'internal',
    `the server refused this worker: ${message.slice(0, 300)}`,
  );
}
