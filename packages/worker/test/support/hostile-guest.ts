import { encodeGuestFrame, type GuestFrame, hostFrameDecoder } from '@cocore/protocol';
import type { Duplex } from 'node:stream';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import type { GuestDouble } from '../../src/sandbox/fake/fake-driver.ts';
import type { Script } from './hostile-script.ts';

/** The frame types of the host, by number. */
const HOST_TYPES = ['', 'HELLO', 'TASK', 'STDIN'] as const;
const REPEAT_BYTES = 65_536;

/** Thrown inside the script when its machine is gone. */
class Gone extends Error {}

/** Plays a hostile script (`hostile-script.ts`) in the place of a machine. */
export class HostileGuest implements GuestDouble {
  readonly ended: Promise<void>;
  readonly #stream: Duplex;
  readonly #console: (text: string) => void;
  readonly #decoder = hostFrameDecoder();
  readonly #ended = Promise.withResolvers<void>();
  readonly #seen = new Map<string, number>();
  readonly #sent = [0, 0, 0];
  #nonce: Uint8Array = new Uint8Array(16);
  #ping: bigint | null = null;
  #beats = true;
  #echoes = false;
  #isGone = false;
  /** Between two steps, where a PONG may go out. */
  #isIdle = false;
  /** Resolves, and is made anew, when something came, or can be written again. */
  #change = Promise.withResolvers<void>();

  constructor(stream: Duplex, console: (text: string) => void, script: Script) {
    this.#stream = stream;
    this.#console = console;
    this.ended = this.#ended.promise;
    stream.on('data', (bytes: Buffer) => this.#onData(bytes)).on('drain', () => this.#changed());
    void this.#run(script).catch((error: unknown) => {
      if (!(error instanceof Gone)) throw error;
    });
  }

  [Symbol.dispose](): void {
    this.#isGone = true;
    this.#changed();
    this.#ended.resolve();
  }

  async #run(script: Script): Promise<void> {
    for (const step of script) await this.#play(step);
    this.#isIdle = true;
    this.#beat();
  }

  async #play(step: string): Promise<void> {
    const [verb = '', ...rest] = step.split(' ');
    const numbers = rest.map(Number);
    const bytes = () => Buffer.from(rest[0]!, 'hex');
    switch (verb) {
      case 'hello':
        await this.#expect('HELLO');
        return this.#hello(numbers[0]!, rest[1] ?? '');
      case 'expect':
        return this.#expect(HOST_TYPES[numbers[0]!]!);
      case 'send':
        return this.#put(bytes());
      case 'data':
        return this.#data(numbers[0]!, numbers[1]!, numbers[2]!);
      case 'output':
        return this.#output(numbers[0]!, numbers[1]!, numbers[2]!);
      case 'repeat': {
        const many = Buffer.concat(Array.from({ length: Math.floor(REPEAT_BYTES / bytes().length) }, bytes));
        return this.#forEver(() => this.#put(many));
      }
      case 'drip': {
        const singly = [...bytes()].map((byte) => Buffer.from([byte]));
        return this.#forEver(async () => {
          for (const byte of singly) await this.#put(byte);
        });
      }
      case 'echo':
        this.#echoes = true;
        return;
      case 'deaf':
        this.#stream.pause();
        return;
      case 'dumb':
        this.#beats = false;
        return;
      case 'guess': {
        let token = 0n;
        return this.#forEver(async () => {
          await sleep(numbers[0]);
          token += 1n;
          await this.#say({ type: 'PONG', token });
        });
      }
      case 'print':
        return this.#forEver(async () => this.#console(`${'\x1b'.repeat(255)}\n`));
      case 'close':
        this.#stream.end();
        return;
      case 'poweroff':
        this[Symbol.dispose]();
        throw new Gone();
      case 'unopened':
        return this.#console('hostile: unopened\n');
      default:
        throw new Error(`no step ${step}`);
    }
  }

  #onData(bytes: Buffer): void {
    if (this.#isGone) return;
    if (this.#echoes) return void this.#stream.write(bytes);
    for (const frame of this.#decoder.push(bytes)) {
      this.#seen.set(frame.type, (this.#seen.get(frame.type) ?? 0) + 1);
      if (frame.type === 'HELLO') this.#nonce = frame.nonce.slice();
      if (frame.type === 'PING') this.#ping = frame.token;
    }
    if (this.#isIdle) this.#beat();
    this.#changed();
  }

  #beat(): void {
    if (this.#ping === null || !this.#beats || !this.#stream.writable) return;
    this.#stream.write(encodeGuestFrame({ type: 'PONG', token: this.#ping }));
    this.#ping = null;
  }

  async #expect(type: string): Promise<void> {
    while ((this.#seen.get(type) ?? 0) === 0) await this.#wait();
    this.#seen.set(type, this.#seen.get(type)! - 1);
  }

  #hello(version: number, more: string): Promise<void> {
    const hello = encodeGuestFrame({ type: 'HELLO', version, nonce: this.#nonce, agentVersion: 'hostile' });
    return this.#put(Buffer.concat([hello, Buffer.from(more, 'hex')]));
  }

  /** Both ends are in one process: without the pause the host would never be heard. */
  async #forEver(act: () => Promise<void>): Promise<void> {
    for (;;) {
      this.#beat();
      await act();
      await setImmediate();
      if (this.#isGone) throw new Gone();
    }
  }

  async #output(stream: number, length: number, count: number): Promise<void> {
    for (let number = 0; count === 0 || number < count; number += 1) {
      this.#beat();
      await this.#data(stream, this.#sent[stream]!, length);
      this.#sent[stream]! += length;
      if (length > 1000 || number % 100 === 0) await setImmediate();
    }
  }

  #data(stream: number, offset: number, length: number): Promise<void> {
    return this.#say({ type: stream === 1 ? 'STDOUT' : 'STDERR', offset, data: Buffer.alloc(length, 'x') });
  }

  #say(frame: GuestFrame): Promise<void> {
    return this.#put(encodeGuestFrame(frame));
  }

  async #put(bytes: Uint8Array): Promise<void> {
    if (this.#isGone) throw new Gone();
    if (!this.#stream.writable || this.#stream.write(bytes)) return;
    while (this.#stream.writableNeedDrain) await this.#wait();
  }

  async #wait(): Promise<void> {
    if (this.#isGone) throw new Gone();
    await this.#change.promise;
    if (this.#isGone) throw new Gone();
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }
}
