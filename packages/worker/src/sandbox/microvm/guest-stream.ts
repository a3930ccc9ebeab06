import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

const RETRY_MS = 10;

export interface GuestStreamOptions {
  /** A connection to the agent, made until `dueMs` by the clock of `performance.now`. */
  readonly connect: (dueMs: number) => Promise<Socket>;
  /** From the first try to a connection. */
  readonly deadlineMs: number;
  /** Ends the tries: nobody will listen any more. */
  readonly signal: AbortSignal;
  /** A connection on which the guest has not said anything for so long is made again; without it, never. */
  readonly patienceMs?: number;
}

/** What is kept for another try; the greeting is far shorter. */
const MAX_UNHEARD_BYTES = 4 * 1024;

/**
 * A stream to the agent over a connection that the host makes. The stream is there at once and connects when it is first written to. One that
 * ends before the guest has said anything is made again, and told the same.
 */
export class GuestStream extends Duplex {
  readonly #options: GuestStreamOptions;
  #socket: Socket | null = null;
  /** What was written before the guest said anything; null from then on. */
  #unheard: Buffer[] | null = [];
  /** Goes on with what waits for the guest's first word. */
  #onHeard: (() => void) | null = null;
  #isConnecting = false;
  #isEnded = false;
  #bytesRead = 0;

  constructor(options: GuestStreamOptions) {
    super({ allowHalfOpen: false });
    this.#options = options;
  }

  /** From the guest. */
  get bytesRead(): number {
    return this.#bytesRead;
  }

  /** Connects now, with nothing to say yet. */
  begin(): void {
    if (!this.#isConnecting) void this.#connect();
  }

  override _read(): void {
    this.#socket?.resume();
  }

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    if (this.#unheard === null) {
      if (this.#socket === null) done(new Error('the connection to the guest is closed'));
      else this.#socket.write(bytes, done);
      return;
    }
    this.#unheard.push(bytes);
    this.#socket?.write(bytes);
    this.begin();
    if (this.#unheard.reduce((sum, { length }) => sum + length, 0) < MAX_UNHEARD_BYTES) done();
    else this.#onHeard = done;
  }

  override _final(done: () => void): void {
    this.#isEnded = true;
    this.#socket?.end();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket?.destroy();
    done(error);
  }

  /** Again and again, until the guest has said something. */
  async #connect(): Promise<void> {
    this.#isConnecting = true;
    const { connect, deadlineMs, signal } = this.#options;
    const dueMs = performance.now() + deadlineMs;
    try {
      for (;;) {
        const socket = await connect(dueMs);
        if (this.destroyed) return void socket.destroy();
        await this.#converse(socket);
        if (this.#unheard === null || this.destroyed) return;
        signal.throwIfAborted();
        if (performance.now() > dueMs) throw new Error(`the agent closes every connection until ${deadlineMs} ms`);
        await sleep(RETRY_MS);
      }
    } catch (error) {
      this.destroy(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Resolves when the guest has said something: from then on it is the stream's one connection; or when the connection has ended before. */
  async #converse(socket: Socket): Promise<void> {
    const settled = Promise.withResolvers<void>();
    this.#socket = socket;
    const { patienceMs } = this.#options;
    const timer = patienceMs === undefined ? undefined : setTimeout(() => socket.destroy(), patienceMs);
    socket.on('data', (bytes: Buffer) => {
      this.#bytesRead += bytes.length;
      if (this.#unheard !== null) {
        this.#unheard = null;
        clearTimeout(timer);
        this.#onHeard?.();
        settled.resolve();
      }
      if (!this.push(bytes)) socket.pause();
    });
    socket.once('end', () => {
      if (this.#unheard === null) this.push(null);
      // Half of a connection that has not been answered is of no use.
      else socket.destroy();
    });
    socket.once('close', () => {
      clearTimeout(timer);
      if (this.#unheard === null) this.destroy();
      settled.resolve();
    });
    if (socket.destroyed) return;
    for (const bytes of this.#unheard ?? []) socket.write(bytes);
    if (this.#isEnded) socket.end();
    socket.resume();
    await settled.promise;
  }
}
