import { chmod, open } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import type { Destination } from './destination.ts';
import { destinationOf } from './gate-frames.ts';
import type { ProxyClient } from './proxy-client.ts';

/** The socket's name in the gate's root; as in `gate/relay.c`. */
const NAME = 'through';
const FIRST_BYTES = 10;

/** Where a gate's connections come to that go through an operator's proxy. Each says first which one it is; only those that are expected are made. */
export class Through implements AsyncDisposable {
  readonly #proxy: ProxyClient;
  readonly #server: Server;
  readonly #expected = new Map<number, Destination>();
  readonly #sockets = new Set<Socket>();

  private constructor(proxy: ProxyClient) {
    this.#proxy = proxy;
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: false }, (socket) => this.#accept(socket));
  }

  /** Listens in a directory. */
  static async listen(directory: string, proxy: ProxyClient): Promise<Through> {
    const through = new Through(proxy);
    // A socket's address is short; the directory's path may be long.
    await using handle = await open(directory);
    const path = `/proc/self/fd/${handle.fd}/${NAME}`;
    await new Promise<void>((resolve, reject) => {
      through.#server.once('error', reject);
      through.#server.listen(path, resolve);
    });
    await chmod(path, 0o666);
    return through;
  }

  expect(id: number, to: Destination): void {
    this.#expected.set(id, to);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #own(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
  }

  #accept(socket: Socket): void {
    this.#own(socket);
    let first = Buffer.alloc(0);
    const onData = (piece: Buffer) => {
      first = Buffer.concat([first, piece]);
      if (first.length < FIRST_BYTES) return;
      socket.off('data', onData);
      socket.pause();
      void this.#connect(socket, first);
    };
    socket.on('data', onData);
  }

  async #connect(socket: Socket, first: Buffer): Promise<void> {
    const id = first.readUInt32LE(0);
    const to = this.#expected.get(id);
    this.#expected.delete(id);
    const asked = destinationOf(first.subarray(4));
    if (to?.address !== asked.address || to.port !== asked.port) return void socket.destroy();
    const tunnel = await this.#proxy.open(to).catch(() => null);
    if (tunnel === null || socket.destroyed) {
      tunnel?.socket.destroy();
      return void socket.destroy();
    }
    this.#own(tunnel.socket);
    if (tunnel.first.length > 0) socket.write(tunnel.first);
    const rest = first.subarray(FIRST_BYTES);
    if (rest.length > 0) tunnel.socket.write(rest);
    socket.pipe(tunnel.socket);
    tunnel.socket.pipe(socket);
    socket.once('close', () => tunnel.socket.destroy());
    tunnel.socket.once('close', () => {
      if (!tunnel.socket.readableEnded) socket.destroy();
    });
  }
}
