import { createServer, type Server, type Socket } from 'node:net';
import type { QemuMachine } from './qemu-machine.ts';

/** The longest that Firecracker reads: `CONNECT 4294967295\n` fits. */
const MAX_REQUEST_BYTES = 32;
const AGENT_PORT = 1024;

/**
 * The Unix socket of the vsock device, as documented: `CONNECT <port>\n` is answered by `OK <host's port>\n` when somebody listens in the
 * guest, else by the end of the connection. The guest's port 1024 is the port of the emulated serial device; nobody listens on any other.
 */
export class HybridVsock {
  readonly #server: Server;
  #machine: QemuMachine | null = null;
  /** Ends the connection that counts. */
  #release: (() => void) | null = null;
  /** Firecracker counts the host's ports from 2^30 on. */
  #nextPort = 2 ** 30;

  private constructor() {
    this.#server = createServer({ allowHalfOpen: false }, (socket) => this.#accept(socket));
  }

  static async listen(path: string): Promise<HybridVsock> {
    const vsock = new HybridVsock();
    await new Promise<void>((resolve, reject) => {
      vsock.#server.once('error', reject).listen(path, () => resolve());
    });
    return vsock;
  }

  attach(machine: QemuMachine): void {
    this.#machine = machine;
  }

  #accept(socket: Socket): void {
    socket.on('error', () => undefined);
    let request = Buffer.alloc(0);
    const onData = (bytes: Buffer) => {
      request = Buffer.concat([request, bytes]);
      const end = request.indexOf('\n');
      if (end === -1 && request.length < MAX_REQUEST_BYTES) return;
      socket.off('data', onData);
      const port = /^connect (\d+)$/i.exec(request.subarray(0, Math.max(0, end)).toString('latin1'))?.[1];
      if (end >= MAX_REQUEST_BYTES || Number(port) !== AGENT_PORT || this.#machine?.isListening !== true) {
        socket.destroy();
        return;
      }
      void this.#bridge(socket, this.#machine, request.subarray(end + 1)).catch(() => socket.destroy());
    };
    socket.on('data', onData);
  }

  async #bridge(socket: Socket, machine: QemuMachine, first: Buffer): Promise<void> {
    // The newest connection is the one that counts.
    this.#release?.();
    socket.pause();
    const agent = await machine.agent.lend();
    if (socket.destroyed) return;
    let isUsed = false;
    const say = (bytes: Buffer) => {
      isUsed = true;
      if (!agent.write(bytes)) socket.pause();
    };
    const hear = (bytes: Buffer) => {
      if (!socket.write(bytes)) agent.pause();
    };
    const goOn = () => socket.resume();
    const release = () => {
      if (this.#release !== release) return;
      this.#release = null;
      agent.off('data', hear).off('drain', goOn);
      machine.agent.giveBack(agent, isUsed);
      socket.destroy();
    };
    this.#release = release;
    agent.on('data', hear).on('drain', goOn);
    socket.write(`OK ${this.#nextPort}\n`);
    this.#nextPort += 1;
    if (first.length > 0) say(first);
    socket.on('data', say).on('drain', () => agent.resume());
    socket.once('close', release).resume();
  }
}
