import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Towards the control server, or from it. */
export type Direction = 'up' | 'down';

/** One connection through the wire: its end at whoever dialled, and its end at the control server. */
interface Pair {
  readonly near: Socket;
  readonly far: Socket;
  /** One end was closed and the other shall not know: what that one sends is swallowed. */
  halfOpen: boolean;
}

/** The pieces in which a slow wire passes bytes on. */
const SLOW_PIECE_BYTES = 1_000;
const SLOW_LATENCY_MS = 40;

/**
 * A wire to the control server, on loopback, that a test can break in every way a network breaks: cut, silent in one direction or both, open
 * at one end only, slow, torn in the middle of a frame.
 */
export class Wire implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #targetPort: number;
  readonly #pairs = new Set<Pair>();
  /** Both ends of every connection, also of those that are half open. */
  readonly #sockets = new Set<Socket>();
  readonly #gates: Record<Direction, PromiseWithResolvers<void> | null> = { up: null, down: null };
  #isCut = false;
  #bytesPerSecond: number | null = null;
  /** The next chunk is passed on in part, by this share, and then the connection ends. */
  #tearAt: number | null = null;

  private constructor(server: Server, targetPort: number) {
    this.#server = server;
    this.#targetPort = targetPort;
    this.port = (server.address() as AddressInfo).port;
    server.on('connection', (near) => this.#connect(near));
  }

  static async to(targetPort: number): Promise<Wire> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new Wire(server, targetPort);
  }

  /** Ends every connection, and refuses new ones. */
  cut(): void {
    this.#isCut = true;
    this.#destroyAll();
  }

  /** Passes nothing on in these directions, not even that a connection ended; nothing is lost if it is healed in time. */
  stall(...directions: readonly Direction[]): void {
    for (const direction of directions) this.#gates[direction] ??= Promise.withResolvers();
  }

  slow(bytesPerSecond: number): void {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Ends the next connection that something passes through, when the given share (between 0 and 1) of it has passed. */
  tear(share: number): void {
    this.#tearAt = share;
  }

  /** Ends every connection at one end; the other goes on and is never answered. */
  halfOpen(end: 'control' | 'worker'): void {
    for (const pair of this.#pairs) {
      pair.halfOpen = true;
      (end === 'control' ? pair.far : pair.near).destroy();
    }
    this.#pairs.clear();
  }

  heal(): void {
    this.#isCut = false;
    this.#bytesPerSecond = null;
    this.#tearAt = null;
    for (const direction of ['up', 'down'] as const) {
      this.#gates[direction]?.resolve();
      this.#gates[direction] = null;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.heal();
    this.#isCut = true;
    this.#destroyAll();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#pairs.clear();
  }

  #connect(near: Socket): void {
    near.on('error', () => undefined);
    if (this.#isCut) {
      near.destroy();
      return;
    }
    const far = connect({ port: this.#targetPort, host: '127.0.0.1', noDelay: true });
    far.on('error', () => undefined);
    near.setNoDelay(true);
    const pair: Pair = { near, far, halfOpen: false };
    this.#pairs.add(pair);
    for (const socket of [near, far]) {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    }
    void this.#carry(pair, near, far, 'up');
    void this.#carry(pair, far, near, 'down');
  }

  /** Passes on until the end of `from`, and then that end. */
  async #carry(pair: Pair, from: Socket, to: Socket, direction: Direction): Promise<void> {
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        await this.#gates[direction]?.promise;
        if (pair.halfOpen) continue;
        const share = this.#tearAt;
        if (share !== null && chunk.length > 1) {
          this.#tearAt = null;
          to.write(chunk.subarray(0, 1 + Math.floor(share * (chunk.length - 1))));
          to.end();
          break;
        }
        await this.#write(to, chunk);
      }
    } catch {
      // It was reset; the other end learns it below.
    }
    await this.#gates[direction]?.promise;
    this.#pairs.delete(pair);
    if (pair.halfOpen) return;
    from.destroy();
    to.destroySoon();
  }

  async #write(to: Socket, chunk: Buffer): Promise<void> {
    if (this.#bytesPerSecond === null) {
      await written(to, chunk);
      return;
    }
    await sleep(SLOW_LATENCY_MS);
    for (let at = 0; at < chunk.length; at += SLOW_PIECE_BYTES) {
      const piece = chunk.subarray(at, at + SLOW_PIECE_BYTES);
      // It may be healed meanwhile.
      const rate = this.#bytesPerSecond;
      if (rate !== null) await sleep((piece.length / rate) * 1000);
      await written(to, piece);
    }
  }
}

async function written(to: Socket, bytes: Buffer): Promise<void> {
  if (to.write(bytes) || to.destroyed) return;
  await Promise.race([once(to, 'drain'), once(to, 'close')]);
}
