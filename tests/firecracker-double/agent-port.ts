import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const RETRY_MS = 5;
/** For the guest to see that a connection has ended, before there is another. */
const APART_MS = 200;
/** For the guest to see a new connection, before anything comes over it: it is told of both in no order, and loses what comes too early. */
const SETTLE_MS = 100;

/** The connection to QEMU's port of the agent, lent to one at a time. QEMU waits for the first before there is a machine. */
export class AgentPort implements Disposable {
  readonly #name: string;
  readonly #over = new AbortController();
  #socket: Promise<Socket>;

  /** @param name of Linux's abstract ones, so that no file is left */
  constructor(name: string) {
    this.#name = name;
    this.#socket = this.#connect(0);
    this.#socket.catch(() => undefined);
  }

  [Symbol.dispose](): void {
    this.#over.abort();
  }

  /** Rejects when QEMU ends before it listens. */
  lend(): Promise<Socket> {
    return this.#socket;
  }

  /** @param isUsed whether anything was said over it: then the guest sees that it has ended */
  giveBack(socket: Socket, isUsed: boolean): void {
    // What is said to nobody is lost.
    socket.resume();
    if (!isUsed) return;
    socket.destroy();
    this.#socket = this.#connectAgain();
    this.#socket.catch(() => undefined);
  }

  async #connectAgain(): Promise<Socket> {
    await sleep(APART_MS);
    return this.#connect(SETTLE_MS);
  }

  async #connect(settleMs: number): Promise<Socket> {
    for (;;) {
      this.#over.signal.throwIfAborted();
      const socket = createConnection(`\0${this.#name}`);
      try {
        await once(socket, 'connect');
        socket.on('error', () => undefined).resume();
        await sleep(settleMs);
        return socket;
      } catch {
        // Nobody listens yet.
        await sleep(RETRY_MS);
      }
    }
  }
}
