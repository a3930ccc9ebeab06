import { EventEmitter } from 'node:events';
import type { WebSocket } from 'ws';
import type { Life, World } from './world.ts';

type Item =
  | { readonly kind: 'message'; readonly data: Buffer; readonly isBinary: boolean }
  | { readonly kind: 'close'; readonly code: number; readonly reason: string }
  | { readonly kind: 'reset' };

export type Direction = 'toServer' | 'toWorker';

/**
 * The network between one worker and the control server. What is silent loses nothing: bytes wait, as TCP makes them, and arrive when it is over.
 */
export class Network {
  readonly silent: Record<Direction, boolean> = { toServer: false, toWorker: false };
  /** Of each piece, between these. */
  latencyMs: readonly [number, number] = [0, 3];
  /** Planted: this share of messages never arrives. */
  lossShare = 0;
  /** New connections are refused. */
  isCut = false;
  readonly #connections = new Set<Connection>();
  readonly #waiting = new Set<() => void>();

  get isWhole(): boolean {
    return !this.silent.toServer && !this.silent.toWorker;
  }

  add(connection: Connection): void {
    this.#connections.add(connection);
  }

  remove(connection: Connection): void {
    this.#connections.delete(connection);
  }

  /** Runs it when both directions are heard. */
  whenWhole(run: () => void): void {
    this.#waiting.add(run);
    this.#retry();
  }

  /** Every connection ends, for both ends. */
  reset(): void {
    for (const connection of this.#connections) connection.reset();
  }

  /** One end of every connection ends, and the other does not hear of it. */
  halfClose(end: 'client' | 'server'): void {
    for (const connection of this.#connections) connection.loseEnd(end);
  }

  silence(direction: Direction, isSilent: boolean): void {
    this.silent[direction] = isSilent;
    if (isSilent) return;
    for (const connection of this.#connections) connection.pump();
    this.#retry();
  }

  #retry(): void {
    if (!this.isWhole) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const run of waiting) run();
  }
}

/** What is under way in one direction, in order. */
class Pipe {
  readonly #world: World;
  readonly #network: Network;
  readonly #direction: Direction;
  readonly #to: SimSocket;
  readonly #items: { readonly item: Item; readonly dueMs: number }[] = [];
  #isScheduled = false;
  #lastDueMs = 0;
  bytes = 0;

  constructor(world: World, network: Network, direction: Direction, to: SimSocket) {
    this.#world = world;
    this.#network = network;
    this.#direction = direction;
    this.#to = to;
  }

  put(item: Item): void {
    const { random, nowMs } = this.#world;
    const { lossShare } = this.#network;
    if (lossShare > 0 && item.kind === 'message' && random.chance(lossShare)) return;
    const [least, most] = this.#network.latencyMs;
    this.#lastDueMs = Math.max(this.#lastDueMs, nowMs + least + random.next() * (most - least));
    this.#items.push({ item, dueMs: this.#lastDueMs });
    if (item.kind === 'message') this.bytes += item.data.length;
    this.pump();
  }

  /** What has not arrived never does. */
  drop(): void {
    this.#items.length = 0;
    this.bytes = 0;
  }

  pump(): void {
    const [next] = this.#items;
    if (next === undefined || this.#isScheduled || this.#to.isPaused || this.#network.silent[this.#direction]) return;
    this.#isScheduled = true;
    this.#world.later(next.dueMs - this.#world.nowMs, this.#to.life, () => {
      this.#isScheduled = false;
      const [now] = this.#items;
      if (now === undefined || this.#to.isPaused || this.#network.silent[this.#direction]) return;
      this.#items.shift();
      if (now.item.kind === 'message') this.bytes -= now.item.data.length;
      if (this.#world.isLogged) this.#world.log(`${this.#to.life.name} is told ${summary(now.item)}`);
      this.#to.receive(now.item);
      this.pump();
    });
  }
}

function summary(item: Item): string {
  if (item.kind !== 'message') return item.kind === 'close' ? `close ${item.code} ${item.reason}` : item.kind;
  return item.isBinary ? `output, ${item.data.length} bytes` : item.data.toString().slice(0, 150);
}

/** Two sockets and what is between them. */
export class Connection {
  readonly client: SimSocket;
  readonly server: SimSocket;
  readonly #network: Network;
  readonly #pipes: readonly [Pipe, Pipe];

  constructor(world: World, network: Network, client: SimSocket, serverLife: Life) {
    this.#network = network;
    this.client = client;
    this.server = new SimSocket(world, serverLife);
    const toServer = new Pipe(world, network, 'toServer', this.server);
    const toWorker = new Pipe(world, network, 'toWorker', client);
    this.#pipes = [toServer, toWorker];
    client.open(this, toServer, toWorker);
    this.server.open(this, toWorker, toServer);
    network.add(this);
  }

  pump(): void {
    for (const pipe of this.#pipes) pipe.pump();
  }

  /** Both ends see it, one after the other; what was under way is lost. */
  reset(): void {
    for (const pipe of this.#pipes) {
      pipe.drop();
      pipe.put({ kind: 'reset' });
    }
  }

  loseEnd(end: 'client' | 'server'): void {
    const [toServer, toWorker] = this.#pipes;
    const pipe = end === 'client' ? toWorker : toServer;
    pipe.drop();
    pipe.put({ kind: 'reset' });
    (end === 'client' ? this.client : this.server).isSevered = true;
  }

  /** The process of one end is gone: its kernel says so to the other, after what it had taken over, or without that. */
  endOf(end: SimSocket, losesSent: boolean): void {
    const [toServer, toWorker] = this.#pipes;
    const pipe = end === this.client ? toServer : toWorker;
    if (losesSent) pipe.drop();
    pipe.put({ kind: 'reset' });
  }

  closed(): void {
    if (this.client.readyState === SimSocket.CLOSED && this.server.readyState === SimSocket.CLOSED) {
      this.#network.remove(this);
    }
  }
}

/** Behaves as a `WebSocket` of `ws` does, as far as control server and worker look at it. */
export class SimSocket extends EventEmitter {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSING = 2;
  static readonly CLOSED = 3;
  readonly OPEN = 1;
  readonly life: Life;
  readyState = SimSocket.CONNECTING;
  isPaused = false;
  /** What it says of its end is not heard. */
  isSevered = false;
  readonly #world: World;
  #connection: Connection | null = null;
  #out: Pipe | null = null;
  #in: Pipe | null = null;

  constructor(world: World, life: Life) {
    super();
    this.#world = world;
    this.life = life;
  }

  get bufferedAmount(): number {
    return this.#out?.bytes ?? 0;
  }

  get asWebSocket(): WebSocket {
    return this as unknown as WebSocket;
  }

  open(connection: Connection, out: Pipe, incoming: Pipe): void {
    [this.#connection, this.#out, this.#in] = [connection, out, incoming];
    this.readyState = SimSocket.OPEN;
  }

  /** Nobody listens there. */
  refuse(): void {
    if (this.readyState !== SimSocket.CONNECTING) return;
    this.readyState = SimSocket.CLOSED;
    this.emit('error', new Error('connect ECONNREFUSED'));
    this.emit('close', 1006, Buffer.alloc(0));
  }

  send(
    data: string | Uint8Array,
    options?: { fin: boolean } | ((error?: Error | null) => void),
    then?: (error?: Error | null) => void,
  ): void {
    const written = typeof options === 'function' ? options : then;
    if (this.readyState === SimSocket.CONNECTING) throw new Error('WebSocket is not open: readyState 0 (CONNECTING)');
    if (this.readyState !== SimSocket.OPEN) {
      this.#soon(() => written?.(new Error('WebSocket is not open')));
      return;
    }
    const isBinary = typeof data !== 'string';
    this.#out!.put({ kind: 'message', data: Buffer.from(data as Uint8Array), isBinary });
    this.#soon(() => written?.(null));
  }

  close(code = 1005, reason = ''): void {
    if (this.readyState === SimSocket.CONNECTING) return this.terminate();
    if (this.readyState !== SimSocket.OPEN) return;
    this.readyState = SimSocket.CLOSING;
    if (!this.isSevered) this.#out!.put({ kind: 'close', code, reason });
  }

  terminate(): void {
    if (this.readyState === SimSocket.CLOSED) return;
    const wasConnecting = this.readyState === SimSocket.CONNECTING;
    this.readyState = SimSocket.CLOSED;
    if (!this.isSevered && this.#connection !== null) this.#connection.endOf(this, false);
    this.#soon(() => {
      if (wasConnecting) this.emit('error', new Error('WebSocket was closed before the connection was established'));
      this.#ended(1006, '');
    });
  }

  /** Its process is gone. */
  abandon(losesSent: boolean): void {
    if (this.readyState === SimSocket.CLOSED) return;
    this.readyState = SimSocket.CLOSED;
    if (!this.isSevered) this.#connection?.endOf(this, losesSent);
  }

  pause(): void {
    if (this.readyState === SimSocket.OPEN || this.readyState === SimSocket.CLOSING) this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
    this.#in?.pump();
  }

  receive(item: Item): void {
    if (this.readyState === SimSocket.CLOSED || this.readyState === SimSocket.CONNECTING) return;
    switch (item.kind) {
      case 'message':
        this.emit('message', item.data, item.isBinary);
        return;
      case 'close':
        if (this.readyState === SimSocket.OPEN) this.#out!.put({ kind: 'close', code: item.code, reason: '' });
        this.readyState = SimSocket.CLOSED;
        this.#ended(item.code, item.reason);
        return;
      case 'reset':
        this.readyState = SimSocket.CLOSED;
        this.#ended(1006, '');
        return;
    }
  }

  #ended(code: number, reason: string): void {
    this.#connection?.closed();
    this.emit('close', code, Buffer.from(reason));
  }

  #soon(run: () => void): void {
    this.#world.later(0, this.life, run);
  }
}
