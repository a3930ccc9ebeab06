import { createConnection, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

/** `OK 4294967295\n` is 14 bytes. */
const MAX_ANSWER_BYTES = 32;
/** Firecracker itself gives a guest 2 s to take a connection. */
const ANSWER_MS = 3_000;
const RETRY_MS = 10;

/** A path to connect to, held until it is disposed of. */
export type HeldPath = AsyncDisposable & { readonly path: string };

export interface HybridVsockOptions {
  /** The Unix socket of Firecracker's vsock device; asked for again at each try. */
  readonly open: () => Promise<HeldPath>;
  /** Where the guest listens. */
  readonly port: number;
  /** From the first try to a connection. */
  readonly deadlineMs: number;
  /** Ends the tries: nobody will listen any more. */
  readonly signal: AbortSignal;
}

/** What is kept for another try; the greeting is far shorter. */
const MAX_UNHEARD_BYTES = 4 * 1024;

/**
 * A stream to a port of the guest, over the Unix socket of Firecracker's vsock device: `CONNECT <port>\n` is answered by `OK <port>\n`, or by
 * the end of the connection while nobody listens in the guest. The stream is there at once and connects when it is first written to. A
 * guest that was restored resets its connections once: one that ends before the guest has said anything is made again, and told the same.
 * The other direction, connections that a guest begins, does not exist, because nobody listens for them on the host.
 */
export class HybridVsock extends Duplex {
  readonly #options: HybridVsockOptions;
  #socket: Socket | null = null;
  /** What was written before the guest said anything; null from then on. */
  #unheard: Buffer[] | null = [];
  /** Goes on with what waits for the guest's first word. */
  #onHeard: (() => void) | null = null;
  #isConnecting = false;
  #isEnded = false;
  #bytesRead = 0;

  constructor(options: HybridVsockOptions) {
    super({ allowHalfOpen: false });
    this.#options = options;
  }

  /** From the guest. */
  get bytesRead(): number {
    return this.#bytesRead;
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
    if (!this.#isConnecting) void this.#connect();
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
    const { deadlineMs, signal } = this.#options;
    const dueMs = performance.now() + deadlineMs;
    try {
      for (;;) {
        const socket = await connectToGuest(this.#options, dueMs);
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
    socket.on('data', (bytes: Buffer) => {
      this.#bytesRead += bytes.length;
      if (this.#unheard !== null) {
        this.#unheard = null;
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

/**
 * Resolves when somebody listens on the port in the guest; nothing is said to them.
 *
 * @throws when nobody does until the deadline, or when `signal` aborts
 */
export async function waitForListener(options: HybridVsockOptions): Promise<void> {
  (await connectToGuest(options, performance.now() + options.deadlineMs)).destroy();
}

async function connectToGuest({ open, port, deadlineMs, signal }: HybridVsockOptions, dueMs: number): Promise<Socket> {
  for (;;) {
    signal.throwIfAborted();
    try {
      return await connectOnce(open, port, signal);
    } catch (cause) {
      signal.throwIfAborted();
      if (performance.now() > dueMs) {
        const why = cause instanceof Error ? cause.message : String(cause);
        throw new Error(`the agent does not listen on port ${port} after ${deadlineMs} ms: ${why}`, { cause });
      }
    }
    await sleep(RETRY_MS, undefined, { signal });
  }
}

async function connectOnce(open: () => Promise<HeldPath>, port: number, signal: AbortSignal): Promise<Socket> {
  await using held = await open();
  const socket = createConnection(held.path);
  const answered = Promise.withResolvers<Buffer>();
  const fail = (message: string) => () => answered.reject(new Error(message));
  const timer = setTimeout(fail(`no answer within ${ANSWER_MS} ms`), ANSWER_MS);
  const onClose = fail('the connection was closed');
  // It stays: a connection that breaks later must not end the daemon.
  const onError = (error: Error) => answered.reject(error);
  const onAbort = () => answered.reject(signal.reason as Error);
  let received = Buffer.alloc(0);
  const onData = (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
    if (received.includes('\n')) answered.resolve(received);
    else if (received.length > MAX_ANSWER_BYTES) fail('an answer without an end')();
  };
  signal.addEventListener('abort', onAbort);
  socket.on('data', onData).once('close', onClose).on('error', onError);
  try {
    socket.write(`CONNECT ${port}\n`);
    const all = await answered.promise;
    const end = all.indexOf('\n');
    if (end > MAX_ANSWER_BYTES || !/^OK \d{1,10}$/.test(all.subarray(0, end).toString('latin1'))) {
      throw new Error('an answer that is not OK');
    }
    socket.pause().off('data', onData).off('close', onClose);
    if (all.length > end + 1) socket.unshift(all.subarray(end + 1));
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}
