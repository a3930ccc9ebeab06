import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** Passes connections on as they are, to one server after the other, and past those that take none. It knows nothing of what is said. */
export class Balancer implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
    ({ port: this.port } = server.address() as AddressInfo);
  }

  /** @param ports where servers listen, when they do */
  static async to(ports: readonly number[]): Promise<Balancer> {
    let turn = 0;
    const server = createServer({ pauseOnConnect: true }, (socket) => {
      turn += 1;
      balancer.#pass(socket, [...ports.slice(turn % ports.length), ...ports.slice(0, turn % ports.length)]);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const balancer = new Balancer(server);
    return balancer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #pass(socket: Socket, [port, ...others]: readonly number[]): void {
    if (port === undefined) {
      socket.destroy();
      return;
    }
    const server = connect(port, '127.0.0.1');
    server.once('error', () => this.#pass(socket, others));
    server.once('connect', () => {
      server.removeAllListeners('error');
      for (const [one, other] of [
        [socket, server],
        [server, socket],
      ] as const) {
        this.#sockets.add(one);
        one.on('error', () => other.destroy());
        one.once('close', () => {
          this.#sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
  }
}
