import {
  type AttemptAssign,
  decodeOutputFrame,
  GATEWAY_SUBPROTOCOL,
  type OutputFrame,
  parseWorkerMessage,
  type ServerMessage,
  type WorkerMessage,
  ROOT_USER,
} from '@cocore/protocol';
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import { eventually } from './workspace.ts';

export const SERVER_ID = 'scripted';
export const WORKER_ID = 'wk_01m8514kprex69j49hvyd9j610';

type Heard = { readonly message: WorkerMessage } | { readonly output: OutputFrame };

/** One connection of a worker, as the test sees it. */
export class Peer {
  readonly heard: Heard[] = [];
  readonly socket: WebSocket;
  #isGenerous = false;

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on('message', (data, isBinary) => {
      const bytes = data as Buffer;
      const heard: Heard = isBinary
        ? { output: decodeOutputFrame(bytes) }
        : { message: parseWorkerMessage(bytes.toString('utf8'))! };
      this.heard.push(heard);
      if (this.#isGenerous && 'message' in heard) this.#acknowledgeEnd(heard.message);
    });
  }

  /** Acknowledges every end, those that were heard and those that come. */
  acknowledgeEnds(): void {
    this.#isGenerous = true;
    for (const ended of this.messages('AttemptEnded')) this.#acknowledgeEnd(ended);
  }

  #acknowledgeEnd(message: WorkerMessage): void {
    if (message.type === 'AttemptEnded') this.send({ type: 'AttemptEndedAck', attemptId: message.attemptId });
  }

  send(message: ServerMessage): void {
    this.socket.send(JSON.stringify(message));
  }

  messages<T extends WorkerMessage['type']>(type: T): Extract<WorkerMessage, { type: T }>[] {
    return this.heard.flatMap((one) =>
      'message' in one && one.message.type === type ? [one.message as Extract<WorkerMessage, { type: T }>] : [],
    );
  }

  async next<T extends WorkerMessage['type']>(type: T): Promise<Extract<WorkerMessage, { type: T }>> {
    await eventually(type, () => this.messages(type).length > 0);
    return this.messages(type)[0]!;
  }

  outputs(): OutputFrame[] {
    return this.heard.flatMap((one) => ('output' in one ? [one.output] : []));
  }

  /** Challenges, hears the hello, and welcomes. */
  async welcome(of: Partial<Extract<ServerMessage, { type: 'ServerWelcome' }>> = {}) {
    this.send({ type: 'ServerChallenge', serverId: SERVER_ID, nonce: 'n'.repeat(43) });
    const hello = await this.next('WorkerHello');
    this.send({
      type: 'ServerWelcome',
      protocol: 1,
      workerId: WORKER_ID,
      sessionId: 'session',
      blobToken: 'token',
      heartbeatMs: 50,
      leaseMs: 30_000,
      resume: [],
      revoke: [],
      ...of,
    });
    return hello;
  }
}

/** PEM. */
export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** A control server whose every message the test sends itself. Blobs are served by digest. */
export class ScriptedServer implements AsyncDisposable {
  readonly peers: Peer[] = [];
  readonly blobs = new Map<string, Buffer>();
  /** No blob is given before it resolves. */
  blobsHeld: Promise<void> = Promise.resolve();
  /** Whoever dials is turned away, and no blob is given. */
  refuses = false;
  turnedAway = 0;
  readonly #http: Server;
  readonly #scheme: string;
  readonly #sockets: WebSocketServer;

  private constructor(tls: TlsFiles | null) {
    const answer: RequestListener = (request, response) => {
      if (this.refuses) return void response.destroy();
      const bytes = this.blobs.get(request.url?.split('/').at(-1) ?? '');
      const known = request.headers.authorization === 'Bearer token';
      response.statusCode = bytes === undefined || !known ? 404 : 200;
      void this.blobsHeld.then(() => response.end(bytes));
    };
    this.#scheme = tls === null ? 'http' : 'https';
    this.#http = tls === null ? createServer(answer) : createSecureServer(tls, answer);
    this.#sockets = new WebSocketServer({ server: this.#http, handleProtocols: () => GATEWAY_SUBPROTOCOL });
    this.#sockets.on('connection', (socket) => {
      if (!this.refuses) return void this.peers.push(new Peer(socket));
      this.turnedAway += 1;
      socket.terminate();
    });
  }

  static async start(tls: TlsFiles | null = null): Promise<ScriptedServer> {
    const server = new ScriptedServer(tls);
    server.#http.listen(0, '127.0.0.1');
    await once(server.#http, 'listening');
    return server;
  }

  get url(): string {
    return `${this.#scheme}://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  /** The connection with this number, counted from 0, when it is there. */
  async peer(index: number): Promise<Peer> {
    await eventually(`connection ${index}`, () => this.peers.length > index, 60_000);
    return this.peers[index]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { socket } of this.peers) socket.terminate();
    this.#sockets.close();
    this.#http.closeAllConnections();
    await new Promise((resolve) => this.#http.close(resolve));
  }
}

/** An assignment whose task plays steps. */
export function assignment(
  attemptId: string,
  channel: number,
  blob: { digest: string; bytes: number },
  steps: readonly string[],
): AttemptAssign {
  return {
    type: 'AttemptAssign',
    attemptId,
    executionId: attemptId.replace('at_', 'ex_'),
    channel,
    task: {
      argv: ['/bin/bash', '/function/f.sh', ...steps],
      env: {},
      cwd: '/work',
      user: ROOT_USER,
      image: blob,
      code: blob,
      stdin: null,
      files: [],
      memoryMiB: 128,
      cpus: 1,
      scratchMiB: 512,
      prepareTimeoutMs: 10_000,
      runTimeoutMs: 10_000,
      outputLimitBytes: 100_000_000,
      artifactsLimitBytes: 1_000_000,
      network: { mode: 'none' },
    },
  };
}
