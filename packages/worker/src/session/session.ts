import {
  assertNever,
  ATTEMPT_STREAMS,
  type AttemptAssign,
  type Capabilities,
  CocoreError,
  helloStatement,
  GATEWAY_PROTOCOL_VERSION,
  isErrorCode,
  parseServerMessage,
  type ServerMessage,
  type WorkerMessage,
} from '@cocore/protocol';
import type { Logger } from 'pino';
import type { RawData, WebSocket } from 'ws';
import type { Attempts } from '../execution/attempts.ts';
import type { Attempt } from '../execution/attempt.ts';
import { type Clock, uptimeClock } from '../host/clock.ts';
import type { Identity } from '../identity.ts';
import type { Endpoint } from './endpoint.ts';
import type { JoinToken } from './join-token.ts';
import { Outbox } from './outbox.ts';

export interface SessionParts {
  readonly endpoint: Endpoint;
  readonly identity: Identity;
  readonly joinToken: JoinToken | null;
  /** Of this life of the daemon. */
  readonly instance: string;
  readonly attempts: Attempts;
  readonly capabilities: Capabilities;
  readonly name: string;
  readonly daemonVersion: string;
  readonly platform: string;
  /** Digests of the large blobs that are here. */
  readonly largeBlobs: () => readonly string[];
  readonly log: Logger;
  readonly uptime?: Clock;
  /** A session whose heartbeats are not acknowledged for this long is given up. */
  readonly silenceMs?: number;
}

type Welcome = Extract<ServerMessage, { type: 'ServerWelcome' }>;
type Challenge = Extract<ServerMessage, { type: 'ServerChallenge' }>;

export const SILENCE_MS = 15_000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a connection that is closed may wait for the other end to close it too. */
const CLOSE_MS = 1_000;

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
  readonly #outbox: Outbox;
  readonly #log: Logger;
  readonly #uptime: Clock;
  readonly #silenceMs: number;
  readonly #welcomed = Promise.withResolvers<string>();
  readonly #closing = Promise.withResolvers<Error>();
  readonly #channels = new Map<number, string>();
  readonly #startedTold = new Set<string>();
  #blobsTold = new Set<string>();
  #challenge: Challenge | null = null;
  #welcome: Welcome | null = null;
  #sequence = 0;
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
    this.#outbox = new Outbox(this.#socket);
    this.#socket.on('message', (data: RawData, isBinary: boolean) => this.#onMessage(data, isBinary));
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

  /** Something of an attempt is new: facts that can be told now are told. */
  wake(): void {
    if (this.#welcome === null || this.#ended) return;
    for (const [channel, attemptId] of this.#channels) {
      const attempt = this.#parts.attempts.get(attemptId);
      if (attempt === undefined) {
        this.#channels.delete(channel);
        this.#outbox.remove(channel);
      } else this.#tell(channel, attempt);
    }
    this.#outbox.wake();
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
        this.#log.warn({ attemptId: message.attemptId, why: message.why }, 'an attempt was taken back');
        return attempts.stop(message.attemptId, 'revoked');
      case 'AttemptEndedAck':
        return attempts.forget(message.attemptId);
      case 'OutputAck': {
        const attempt = attempts.get(this.#channels.get(message.channel) ?? '');
        return attempt?.output.acknowledge(message.stream, message.offset);
      }
      case 'HeartbeatAck':
        this.#heardAtMs = this.#uptime();
        return;
      default:
        return assertNever(message);
    }
  }

  #hello(challenge: Challenge): void {
    if (this.#challenge !== null) throw new CocoreError('protocol_violation', 'a second challenge');
    this.#challenge = challenge;
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
      ...(identity.joined === null && joinToken !== null ? { joinToken: joinToken.text } : {}),
      capabilities: this.#parts.capabilities,
      inventory: attempts.list().map(({ attemptId, startedAtMs, ended }) => ({
        attemptId,
        started: startedAtMs !== null,
        ...(ended === null ? {} : { ended: true }),
      })),
    });
  }

  #resume(welcome: Welcome): void {
    const { identity, attempts, endpoint } = this.#parts;
    if (this.#challenge === null || this.#welcome !== null) {
      throw new CocoreError('protocol_violation', 'a welcome out of order');
    }
    const { serverId } = this.#challenge;
    const known = identity.joined;
    if (known === null || known.workerId !== welcome.workerId) {
      identity.join({ serverId, workerId: welcome.workerId, certificateSha256: endpoint.pin });
    }
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
    this.#welcome = welcome;
    this.blobToken = welcome.blobToken;
    for (const attemptId of welcome.revoke) attempts.stop(attemptId, 'revoked');
    for (const { attemptId, channel, offsets } of welcome.resume) {
      const attempt = attempts.get(attemptId);
      if (attempt === undefined) continue;
      const gone = ATTEMPT_STREAMS.filter((stream) => !attempt.output.resume(stream, offsets[stream]));
      if (gone.length > 0) {
        this.#log.error({ attemptId, streams: gone, offsets }, 'the server asks for output that is not here any more');
        attempt.loseOutput();
      }
      this.#open(channel, attempt);
    }
    this.tellBlobs();
    this.#heardAtMs = this.#uptime();
    this.#beat();
    this.#timers.push(setInterval(() => this.#beat(), welcome.heartbeatMs));
    this.#welcomed.resolve(welcome.workerId);
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
    this.#channels.set(channel, attempt.attemptId);
    this.#outbox.send({ type: 'AttemptAccepted', attemptId: attempt.attemptId, ...attempt.acceptance });
    this.#outbox.add(channel, attempt.output);
    this.#tell(channel, attempt);
  }

  #tell(channel: number, { attemptId, startedAtMs, ended }: Attempt): void {
    if (startedAtMs !== null && !this.#startedTold.has(attemptId)) {
      this.#startedTold.add(attemptId);
      const agoMs = Math.max(0, this.#uptime() - startedAtMs);
      this.#outbox.send({ type: 'AttemptStarted', attemptId, agoMs });
    }
    if (ended !== null) this.#outbox.finish(channel, ended);
  }

  #beat(): void {
    if (this.#uptime() - this.#heardAtMs > this.#silenceMs) {
      this.#end(new Error(`the server acknowledged no heartbeat for ${this.#silenceMs} ms`));
      return;
    }
    const attempts = this.#parts.attempts.list();
    const beats = attempts.map((attempt) => ({ attemptId: attempt.attemptId, agentAgeMs: attempt.agentAgeMs() }));
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
