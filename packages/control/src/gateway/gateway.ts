import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import {
  type AttemptPreparing,
  CocoreError,
  GATEWAY_PATH,
  GATEWAY_PROTOCOL_VERSION,
  GATEWAY_SUBPROTOCOL,
  HEARTBEAT_MS,
  LEASE_MS,
  problemOf,
  type StopKind,
  type WorkerBlobs,
  type WorkerHello,
} from '@cocore/protocol';
import type { Logger } from 'pino';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { Sweeper } from '../dispatch/sweeper.ts';
import type { Metrics } from '../metrics.ts';
import type { AttemptReports } from './attempt-reports.ts';
import { Beats } from './beats.ts';
import { blobTokenHash, type HandshakeParts, type Handshaken, shakeHands } from './handshake.ts';
import { UnprovenConnections } from './unproven.ts';
import { type Heartbeat, type SessionHandler, WorkerSession } from './session.ts';

/** A worker's largest message is a hello or a beat that names 10,000 attempts. */
const MAX_WORKER_MESSAGE_BYTES = 2 * 1024 * 1024;
/** Connections whose worker has not proven itself; each may make the server hold one message. */
export const MAX_UNPROVEN = 64;
/** How often a worker's last beat is written down. */
const PERSIST_BEAT_MS = 60_000;

/** A worker beats every 5 s: one that was not heard for so long is gone, or as good as gone. */
const DUPLICATE_SILENCE_MS = 15_000;

export interface GatewayParts extends HandshakeParts {
  readonly dispatcher: Dispatcher;
  readonly sweeper: Sweeper;
  readonly reports: AttemptReports;
  readonly metrics: Metrics;
  readonly log: Logger;
}

/** The workers' door: upgrades, handshakes, and the sessions that come of them. */
export class Gateway implements SessionHandler, AsyncDisposable {
  readonly #parts: GatewayParts;
  readonly #sockets: WebSocketServer;
  /** By the hash of the session's blob token. */
  readonly #byBlobToken = new Map<string, WorkerSession>();
  readonly #blobTokenOf = new Map<WorkerSession, string>();
  readonly #persistedBeatMs = new Map<WorkerSession, number>();
  /** Who has a session, by key. */
  readonly #daemons = new Map<string, { readonly session: WorkerSession; readonly instance: string | null }>();
  /** Handshakes under way. */
  readonly #serving = new Set<Promise<void>>();
  /** Sessions whose end is being written down. */
  readonly #closing = new Set<Promise<void>>();
  #isClosing = false;
  readonly #beats: Beats;
  readonly #unproven = new UnprovenConnections(MAX_UNPROVEN);

  constructor(parts: GatewayParts) {
    this.#parts = parts;
    this.#beats = new Beats(parts);
    this.#sockets = new WebSocketServer({
      noServer: true,
      maxPayload: MAX_WORKER_MESSAGE_BYTES,
      perMessageDeflate: false,
      handleProtocols: () => GATEWAY_SUBPROTOCOL,
    });
  }

  attach(server: Server): void {
    server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      socket.on('error', () => socket.destroy());
      const refusal = this.#refusalOf(request);
      if (refusal !== null) {
        refuseUpgrade(socket, refusal.status, refusal.error);
        return;
      }
      this.#sockets.handleUpgrade(request, socket, head, (webSocket) => {
        void this.serve(webSocket, socket, request.socket.remoteAddress ?? '');
      });
    });
  }

  /**
   * Hears who has dialled, and opens a session for a worker. It never rejects.
   *
   * @param stream what the WebSocket writes to
   * @param address of the other end
   */
  serve(socket: WebSocket, stream: Duplex, address: string): Promise<void> {
    const serving = this.#serve(socket, stream, address).finally(() => this.#serving.delete(serving));
    this.#serving.add(serving);
    return serving;
  }

  async #serve(socket: WebSocket, stream: Duplex, address: string): Promise<void> {
    const { log } = this.#parts;
    socket.on('error', (error) => log.info({ err: error }, 'a worker’s connection failed'));
    using _place = this.#unproven.add(socket, address);
    try {
      const shaken = await shakeHands(socket, this.#parts, (hello) => this.#admit(hello));
      if (!this.#isClosing) return this.#open(socket, stream, shaken);
      const { workerId, sessionId, openedAtMs } = shaken.facts;
      await this.#parts.store.closeSession(workerId, sessionId, openedAtMs);
    } catch (error) {
      if (this.#isClosing) return;
      const refusal =
        error instanceof CocoreError ? error : new CocoreError('internal', 'the hello failed', { cause: error });
      if (refusal.code === 'internal') log.error({ err: error }, 'a handshake failed');
      else log.info({ code: refusal.code }, refusal.message);
      if (socket.readyState === socket.OPEN) {
        socket.send(JSON.stringify({ type: 'ServerRefusal', code: refusal.code, message: refusal.message }));
        socket.close(1008, refusal.code);
      }
    }
  }

  /**
   * Whether a blob token belongs to a session that is open, here or at another server, and may have this digest.
   *
   * @throws CocoreError `unauthenticated`, `blob_not_found`
   */
  async checkBlob(blobToken: string, digest: string): Promise<void> {
    const { store, life = null } = this.#parts;
    const hash = blobTokenHash(blobToken);
    const session = this.#byBlobToken.get(hash);
    const elsewhere = session === undefined && life !== null ? await store.mayFetchBlob(hash, digest) : null;
    const mayFetch = session === undefined ? elsewhere : session.mayFetch(digest);
    if (mayFetch === null) throw new CocoreError('unauthenticated', 'the token is not that of an open session');
    if (!mayFetch) throw new CocoreError('blob_not_found', `no assignment names the blob ${digest}`);
  }

  report(...args: Parameters<AttemptReports['report']>): Promise<void> {
    return this.#parts.reports.report(...args);
  }

  output(...args: Parameters<AttemptReports['output']>): Promise<void> {
    return this.#parts.reports.output(...args);
  }

  heard(session: WorkerSession): void {
    this.#parts.sweeper.beat(session.workerId);
  }

  heartbeat(session: WorkerSession, heartbeat: Heartbeat): void {
    const { clock, store } = this.#parts;
    const nowMs = clock.nowMs();
    session.lastBeatAtMs = nowMs;
    const { cancel, revoke } = this.#beats.hear(session, heartbeat);
    session.send({
      type: 'HeartbeatAck',
      sequence: heartbeat.sequence,
      ...(cancel.length === 0 ? {} : { cancel }),
      ...(revoke.length === 0 ? {} : { revoke }),
    });
    if (nowMs - (this.#persistedBeatMs.get(session) ?? 0) < PERSIST_BEAT_MS) return;
    this.#persistedBeatMs.set(session, nowMs);
    store.recordBeat(session.workerId, session.sessionId, nowMs).catch((error: unknown) => {
      this.#parts.log.error({ err: error }, 'a beat could not be written down');
    });
  }

  preparing(session: WorkerSession, { attemptId, fetching }: AttemptPreparing): void {
    const attempt = this.#parts.dispatcher.live.get(attemptId);
    if (attempt?.link === session) attempt.fetching = fetching;
  }

  blobs(session: WorkerSession, { added, removed }: WorkerBlobs): void {
    this.#parts.dispatcher.workerBlobs(session, added, removed);
  }

  stopping(session: WorkerSession, how: StopKind): void {
    if (session.stopping?.how === how) return;
    session.stopping = { how, sinceMs: this.#parts.clock.nowMs() };
    this.#parts.log.info({ workerId: session.workerId, how }, 'a worker takes nothing more');
    this.#parts.dispatcher.drains.ownerStops(session);
  }

  faulted(session: WorkerSession, error: CocoreError): void {
    this.#parts.metrics.protocolFaults.inc();
    this.#parts.log.warn({ workerId: session.workerId, code: error.code }, error.message);
  }

  closed(session: WorkerSession): void {
    const { dispatcher, store, log } = this.#parts;
    const token = this.#blobTokenOf.get(session);
    if (token !== undefined) this.#byBlobToken.delete(token);
    this.#blobTokenOf.delete(session);
    this.#persistedBeatMs.delete(session);
    for (const [key, daemon] of this.#daemons) if (daemon.session === session) this.#daemons.delete(key);
    dispatcher.sessionClosed(session);
    log.info({ workerId: session.workerId }, 'a worker’s session has ended');
    const written = store
      .closeSession(session.workerId, session.sessionId, session.lastBeatAtMs)
      .catch((error: unknown) => log.error({ err: error }, 'the end of a session could not be written down'))
      .finally(() => this.#closing.delete(written));
    this.#closing.add(written);
  }

  /** Ends all sessions, and lets nobody in any more: what is open keeps the server from closing. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    for (const session of [...this.#blobTokenOf.keys()]) session.close(1001, 'the server stops');
    for (const socket of this.#sockets.clients) socket.terminate();
    await Promise.all(this.#serving);
    await Promise.all(this.#closing);
    this.#sockets.close();
  }

  #refusalOf(request: IncomingMessage): { status: number; error: CocoreError } | null {
    const refuse = (status: number, error: CocoreError) => ({ status, error });
    if (this.#isClosing) return refuse(503, new CocoreError('not_ready', 'the server stops'));
    if (!this.#parts.names.includes(request.headers.host ?? '')) {
      return refuse(421, new CocoreError('host_not_allowed', 'this server does not answer to that Host'));
    }
    if (request.url !== GATEWAY_PATH) {
      return refuse(404, new CocoreError('route_not_found', 'workers connect elsewhere'));
    }
    if (request.headers.origin !== undefined) {
      return refuse(403, new CocoreError('forbidden', 'a page in a browser may not be a worker'));
    }
    const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    if (!offered.includes(GATEWAY_SUBPROTOCOL)) {
      return refuse(400, new CocoreError('protocol_version', `the subprotocol must be ${GATEWAY_SUBPROTOCOL}`));
    }
    return null;
  }

  /**
   * A daemon's own earlier session gives way to its next one. That of another daemon with the same key, which would lose all that it runs, does only once
   * it is not heard any more.
   */
  #admit({ publicKey, instance }: WorkerHello): void {
    const other = this.#daemons.get(publicKey);
    if (other === undefined || instance === undefined || other.instance === null || other.instance === instance) return;
    const { workerId } = other.session;
    if (this.#parts.sweeper.silenceMs(workerId) > DUPLICATE_SILENCE_MS) return;
    throw new CocoreError('worker_duplicate', `another daemon has the key of ${workerId} and is connected`);
  }

  #open(socket: WebSocket, stream: Duplex, { facts, hello, opened, blobToken }: Handshaken): void {
    const { dispatcher, sweeper, log } = this.#parts;
    const session = new WorkerSession(socket, stream, facts, this, log);
    const tokenHash = blobTokenHash(blobToken);
    this.#byBlobToken.set(tokenHash, session);
    this.#blobTokenOf.set(session, tokenHash);
    this.#daemons.set(hello.publicKey, { session, instance: hello.instance ?? null });
    sweeper.beat(facts.workerId);
    const resumed = dispatcher.sessionOpened(session, opened);
    session.send({
      type: 'ServerWelcome',
      protocol: GATEWAY_PROTOCOL_VERSION,
      workerId: facts.workerId,
      sessionId: facts.sessionId,
      incarnation: this.#parts.incarnation,
      sharedSignatures: true,
      blobToken,
      heartbeatMs: HEARTBEAT_MS,
      leaseMs: LEASE_MS,
      resume: opened.resume.map((row, index) => ({
        attemptId: row.attemptId,
        channel: session.bind(resumed[index]!),
        offsets: row.bytes,
      })),
      revoke: [...opened.revoke],
      late: [...opened.late],
    });
    for (const attempt of resumed) {
      const { attemptId } = attempt;
      if (attempt.cancelRequestedUptimeMs !== null) session.send({ type: 'AttemptCancel', attemptId });
    }
    if (dispatcher.drains.isDrained(facts.workerId)) session.send({ type: 'DrainNotice', draining: true });
    session.start();
    log.info({ workerId: facts.workerId, resumed: resumed.length }, 'a worker’s session is open');
  }
}

function refuseUpgrade(socket: Duplex, status: number, error: CocoreError): void {
  const body = JSON.stringify({ ...problemOf(error), status });
  // The server has let go of the socket: nobody else closes it when the other side does not.
  socket.once('finish', () => socket.destroy());
  socket.end(
    [
      `HTTP/1.1 ${status} Refused`,
      'Content-Type: application/problem+json',
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  );
}
