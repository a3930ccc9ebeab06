import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** Stands between a client and a server; cuts a connection instead of handing on what the server says next that has certain bytes in it. */
export class CuttingProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #cutAt: Buffer | null = null;
  /** How often it has. */
  cuts = 0;

  private constructor(server: Server, port: number) {
    this.#server = server;
    server.on('connection', (client) => {
      const upstream = connect(port, '127.0.0.1');
      client.on('data', (bytes) => upstream.write(bytes));
      upstream.on('data', (bytes) => {
        if (this.#cutAt === null || !bytes.includes(this.#cutAt)) {
          client.write(bytes);
          return;
        }
        this.#cutAt = null;
        this.cuts += 1;
        client.destroy();
        upstream.destroy();
      });
      for (const socket of [client, upstream]) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => {
          client.destroy();
          upstream.destroy();
        });
      }
    });
  }

  static async start(port: number): Promise<CuttingProxy> {
    const server = createServer();
    const proxy = new CuttingProxy(server, port);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  cutAt(text: string): void {
    this.#cutAt = Buffer.from(text);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
