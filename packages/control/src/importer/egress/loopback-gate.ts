import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Refusal } from './egress-proxy.ts';

const MAX_OPEN = 64;

/** A Unix socket that leads to one registry on the host's loopback, and nowhere else. */
export class LoopbackGate implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  #bytes = 0;
  #refusal: Refusal | null = null;

  /** @param maxBytes from the registry, all connections together */
  constructor(host: string, port: number, maxBytes: number) {
    this.#server = createServer((client) => {
      const upstream = connect({ host, port });
      for (const socket of [client, upstream]) {
        this.#sockets.add(socket);
        socket.once('close', () => this.#sockets.delete(socket));
        socket.on('error', () => socket.destroy());
      }
      upstream.on('data', (chunk: Buffer) => {
        this.#bytes += chunk.length;
        if (this.#bytes <= maxBytes) return;
        this.#refusal = { kind: 'bytes', message: `the registry sent more than ${maxBytes} bytes` };
        upstream.destroy();
      });
      client.pipe(upstream);
      upstream.pipe(client);
      client.once('close', () => upstream.destroy());
      // What it sent before its end may still be on its way; without an end it broke off.
      upstream.once('close', () => {
        if (!upstream.readableEnded) client.destroy();
      });
    });
    this.#server.maxConnections = MAX_OPEN;
  }

  get refusal(): Refusal | null {
    return this.#refusal;
  }

  async listen(socketPath: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(socketPath, resolve);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }
}
