import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import {
  type AttemptAssign,
  type AttemptStream,
  type AttemptEnded,
  type Capabilities,
  encodeOutputFrame,
  endStatement,
  GATEWAY_PATH,
  GATEWAY_SUBPROTOCOL,
  helloStatement,
  type IsolationClass,
  type OfStreams,
  type Outcome,
  parseServerMessage,
  signEnds,
  type ServerMessage,
  type WorkerHello,
  type WorkerMessage,
} from '@cocore/protocol';
import WebSocket from 'ws';
import type { TestServer } from './test-server.ts';

export type Message<Type extends ServerMessage['type']> = Extract<ServerMessage, { type: Type }>;

/** A worker's key pair. */
export class Identity {
  readonly privateKey: KeyObject;
  readonly publicKey: string;

  constructor() {
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    this.privateKey = privateKey;
    this.publicKey = publicKey.export({ format: 'jwk' }).x!;
  }

  sign(statement: string): string {
    return sign(null, Buffer.from(statement), this.privateKey).toString('base64url');
  }
}

export const CAPABILITIES: Capabilities = {
  driver: 'fake',
  isolation: 'container',
  cpus: 64,
  memoryMiB: 65_536,
  diskMiB: 65_536,
  sandboxOverheadMiB: 0,
  egress: false,
};

/** Where it dials. */
export type Reachable = Pick<TestServer, 'url' | 'authority' | 'joinToken'>;

export interface ConnectOptions {
  readonly identity?: Identity;
  readonly joinToken?: string;
  readonly inventory?: readonly string[];
  readonly capabilities?: Partial<Capabilities>;
  /** Changes the hello after it is made, and before it is signed. */
  readonly change?: (hello: WorkerHello) => Partial<WorkerHello>;
  /** What is signed instead. */
  readonly statement?: (of: Parameters<typeof helloStatement>[0]) => string;
}

/** The bytes of one stream, for an end report. */
/** What a stream holds; those that are left out hold nothing. */
export type Streams = Partial<OfStreams<string | Uint8Array>>;

/** A worker that does what a test tells it, over a real WebSocket. */
export class ScriptedWorker implements AsyncDisposable {
  readonly identity: Identity;
  readonly socket: WebSocket;
  readonly received: ServerMessage[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  #isolation: IsolationClass = CAPABILITIES.isolation;
  #welcome: Message<'ServerWelcome'> | null = null;
  #waiting: (() => void)[] = [];
  #isClosed = false;
  /** What it has accepted and not been told to forget. */
  readonly #held = new Set<string>();

  constructor(socket: WebSocket, identity: Identity) {
    this.socket = socket;
    this.identity = identity;
    this.closed = new Promise((resolve) => {
      socket.once('close', (code, reason) => {
        this.#isClosed = true;
        this.#wake();
        resolve({ code, reason: reason.toString() });
      });
    });
    socket.on('error', () => undefined);
    socket.on('message', (data) => {
      const message = parseServerMessage((data as Buffer).toString('utf8'))!;
      if (message.type === 'AttemptEndedAck' || message.type === 'AttemptRevoke') this.#held.delete(message.attemptId);
      this.received.push(message);
      this.#wake();
    });
  }

  /** Dials and sends a hello; the answer is still to come. */
  static async dial(server: Reachable, options: ConnectOptions = {}): Promise<ScriptedWorker> {
    const identity = options.identity ?? new Identity();
    const socket = new WebSocket(server.url.replace(/^http/, 'ws') + GATEWAY_PATH, GATEWAY_SUBPROTOCOL, {
      rejectUnauthorized: false,
    });
    const worker = new ScriptedWorker(socket, identity);
    await once(socket, 'open');
    const { serverId, nonce } = await worker.next('ServerChallenge');
    const { publicKey } = identity;
    const hello: WorkerHello = {
      type: 'WorkerHello',
      protocol: { min: 1, max: 1 },
      daemonVersion: '0.1.0',
      platform: 'test',
      name: 'scripted',
      publicKey,
      signature: '',
      authority: server.authority,
      ...(options.joinToken === undefined ? {} : { joinToken: options.joinToken }),
      capabilities: { ...CAPABILITIES, ...options.capabilities },
      inventory: (options.inventory ?? []).map((attemptId) => ({ attemptId, started: true })),
    };
    worker.#isolation = hello.capabilities.isolation;
    const changed = { ...hello, ...options.change?.(hello) };
    const facts = { serverId, nonce, authority: changed.authority, publicKey };
    const statement = options.statement?.(facts) ?? helloStatement(facts);
    worker.send({ ...changed, signature: changed.signature || identity.sign(statement) });
    return worker;
  }

  /** Dials with a new join token unless the identity is given. */
  static async connect(server: Reachable, options: ConnectOptions = {}): Promise<ScriptedWorker> {
    const joinToken = options.identity === undefined ? { joinToken: await server.joinToken() } : {};
    const worker = await ScriptedWorker.dial(server, { ...joinToken, ...options });
    worker.#welcome = await worker.next('ServerWelcome');
    for (const { attemptId } of worker.#welcome.resume) worker.#held.add(attemptId);
    return worker;
  }

  get welcome(): Message<'ServerWelcome'> {
    return this.#welcome!;
  }

  send(message: WorkerMessage): void {
    this.socket.send(JSON.stringify(message));
  }

  /** Takes the first message of this type out of what was received, waiting for it. */
  async next<Type extends ServerMessage['type']>(
    type: Type,
    matches: (message: Message<Type>) => boolean = () => true,
    timeoutMs = 10_000,
  ): Promise<Message<Type>> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const index = this.received.findIndex((message) => message.type === type && matches(message as Message<Type>));
      if (index >= 0) return this.received.splice(index, 1)[0] as Message<Type>;
      if (this.#isClosed) throw new Error(`the connection closed before ${type}`);
      if (performance.now() > deadline) throw new Error(`no ${type} within ${timeoutMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.max(1, deadline - performance.now()));
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  accept({ attemptId }: { attemptId: string }, isolation = this.#isolation): void {
    this.#held.add(attemptId);
    this.send({ type: 'AttemptAccepted', attemptId, driver: 'fake', isolation });
  }

  started({ attemptId }: { attemptId: string }, agoMs = 0): void {
    this.send({ type: 'AttemptStarted', attemptId, agoMs });
  }

  output(channel: number, stream: AttemptStream, offset: number, data: string | Uint8Array): void {
    this.socket.send(encodeOutputFrame({ channel, stream, offset, data: Buffer.from(data) }));
  }

  end(
    { attemptId }: { attemptId: string },
    outcome: Outcome = { kind: 'exited', code: 0 },
    streams: Streams = {},
    change: Partial<AttemptEnded> = {},
  ): void {
    const ended = this.#ended(attemptId, outcome, streams);
    this.send({ ...ended, signature: this.identity.sign(endStatement({ ...ended, ...change })), ...change });
  }

  /** Successes without output, whose signature is one. @param change what is told otherwise than it was signed */
  endTogether(attempts: readonly { attemptId: string }[], change: (ended: AttemptEnded) => object = () => ({})): void {
    const ends = attempts.map(({ attemptId }) => this.#ended(attemptId, { kind: 'exited', code: 0 }, {}));
    const sha256 = (text: string) => createHash('sha256').update(text).digest('base64url');
    const signatures = signEnds(ends.map(endStatement), sha256, (statement) => this.identity.sign(statement));
    for (const [at, facts] of ends.entries()) {
      const ended = { ...facts, signature: signatures[at]! };
      this.send({ ...ended, ...change(ended) });
    }
  }

  #ended(attemptId: string, outcome: Outcome, streams: Streams): Omit<AttemptEnded, 'signature'> {
    const stream = (data: string | Uint8Array = '') => ({
      bytes: Buffer.from(data).length,
      sha256: `sha256:${createHash('sha256').update(data).digest('hex')}`,
      truncated: false,
    });
    return {
      type: 'AttemptEnded',
      attemptId,
      outcome,
      message: null,
      stdout: stream(streams.stdout),
      stderr: stream(streams.stderr),
      result: stream(streams.result),
      artifacts: stream(streams.artifacts),
      artifactFiles: streams.artifacts === undefined ? 0 : 1,
      usage: { host: { cpuMs: 1.5, memoryPeakBytes: 4096, wallMs: 20 }, guest: null },
    };
  }

  /** @param attempts what it has, if not given */
  beat(sequence: number, attempts: { attemptId: string; agentAgeMs: number | null }[] = this.#heldAttempts()): void {
    this.send({ type: 'WorkerHeartbeat', sequence, attempts });
  }

  /** Takes the next assignment up to its start. */
  async startNext(): Promise<AttemptAssign> {
    const assign = await this.next('AttemptAssign');
    this.accept(assign);
    this.started(assign);
    return assign;
  }

  /** Leaves in one piece, as when a worker has all of it to say. */
  atOnce(say: () => void): void {
    const { _socket: stream } = this.socket as unknown as { readonly _socket: Duplex };
    stream.cork();
    say();
    stream.uncork();
  }

  /** Takes every assignment, and ends it at once with its arguments as output. */
  echoAll(): void {
    this.socket.on('message', (data) => {
      const message = parseServerMessage((data as Buffer).toString('utf8'));
      this.received.length = 0;
      if (message?.type !== 'AttemptAssign') return;
      const text = message.task.argv.slice(2).join(' ');
      this.accept(message);
      this.started(message);
      if (text !== '') this.output(message.channel, 'stdout', 0, text);
      this.end(message, { kind: 'exited', code: 0 }, { stdout: text });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.terminate();
    await this.closed;
  }

  #heldAttempts(): { attemptId: string; agentAgeMs: null }[] {
    return [...this.#held].map((attemptId) => ({ attemptId, agentAgeMs: null }));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }
}
