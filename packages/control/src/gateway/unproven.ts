import type { WebSocket } from 'ws';

/**
 * Connections whose worker has not proven itself, a bounded number of them. Where all places are taken, a new one takes that of the oldest of the
 * network that has the most: who holds many loses them first, and a worker that proves itself at once is not kept out by who never does.
 */
export class UnprovenConnections {
  readonly #limit: number;
  readonly #byNetwork = new Map<string, Set<WebSocket>>();
  #count = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Disposed when the worker has proven itself, or is turned away. */
  add(socket: WebSocket, address: string): Disposable {
    const network = networkOf(address);
    if (this.#count >= this.#limit) this.#evict();
    const sockets = this.#byNetwork.get(network) ?? new Set();
    this.#byNetwork.set(network, sockets.add(socket));
    this.#count += 1;
    return { [Symbol.dispose]: () => this.#remove(network, socket) };
  }

  #evict(): void {
    let most: [string, Set<WebSocket>] | null = null;
    for (const entry of this.#byNetwork) if (most === null || entry[1].size > most[1].size) most = entry;
    const [network, sockets] = most!;
    const [oldest] = sockets;
    this.#remove(network, oldest!);
    oldest!.terminate();
  }

  #remove(network: string, socket: WebSocket): void {
    const sockets = this.#byNetwork.get(network);
    if (sockets?.delete(socket) !== true) return;
    this.#count -= 1;
    if (sockets.size === 0) this.#byNetwork.delete(network);
  }
}

/** Whoever has one address of IPv6 has the 64 bits below it. */
export function networkOf(address: string): string {
  if (!address.includes(':') || address.includes('.')) return address;
  const [head = '', tail] = address.split('::');
  const before = head.split(':').filter((group) => group !== '');
  const after = (tail ?? '').split(':').filter((group) => group !== '');
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0');
  return `${[...before, ...zeros, ...after].slice(0, 4).join(':')}::/64`;
}
