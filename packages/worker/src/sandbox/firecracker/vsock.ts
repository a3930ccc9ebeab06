import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { GuestStream } from '../microvm/guest-stream.ts';
import type { HeldPath } from '../microvm/sandbox-view.ts';

/** `OK 4294967295\n` is 14 bytes. */
const MAX_ANSWER_BYTES = 32;
/** Firecracker itself gives a guest 2 s to take a connection. */
const ANSWER_MS = 3_000;
const RETRY_MS = 10;

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

/**
 * A stream to a port of the guest, over the Unix socket of Firecracker's vsock device: `CONNECT <port>\n` is answered by `OK <port>\n`, or by
 * the end of the connection while nobody listens in the guest. A guest that was restored resets its connections once. The other
 * direction, connections that a guest begins, does not exist, because nobody listens for them on the host.
 */
export function hybridVsock(options: HybridVsockOptions): GuestStream {
  return new GuestStream({ ...options, connect: (dueMs) => connectToGuest(options, dueMs) });
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
