import {
  ATTEMPT_STREAMS,
  type AttemptStream,
  assertNever,
  encodeGuestFrame,
  FRAME_OF_STREAM,
  GUEST_FRAME_VERSION,
  type GuestFrame,
  type HostFrame,
  hostFrameDecoder,
  MAX_GUEST_DATA_BYTES,
  MAX_RESULT_BYTES,
  type OfStreams,
  ofStreams,
  type Refused,
  STREAM_WINDOW_BYTES,
} from '@cocore/protocol';
import { createHash } from 'node:crypto';
import { constants } from 'node:os';
import type { Duplex } from 'node:stream';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { ByteWindow } from '../../execution/byte-window.ts';
import { archiveOf } from './archive.ts';
import type { GuestDouble } from './fake-driver.ts';

/** What `outbytes` repeats: 16 bytes a line. */
const PATTERN = '0123456789abcde\n';
/** Lines of `lines` that are written together when none is to be waited for. */
const LINES_AT_ONCE = 512;

/** Thrown inside the script when its process or its machine has ended. */
class Over extends Error {}

/** The part of the runtime configuration that the double looks at. */
interface Config {
  readonly process: { readonly args: readonly string[] };
}

/** After what is each function's own comes what is the same for all, and nothing to the double. Within a string these quotes would be escaped. */
const FIXED_FROM = ',"ociVersion":';

function configOf(bytes: Uint8Array): Config {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = text.indexOf(FIXED_FROM);
  return JSON.parse(end === -1 ? text.toString('utf8') : `${text.toString('utf8', 0, end)}}`) as Config;
}

/**
 * A guest without a machine. It speaks real frames, keeps to the credit, and plays the arguments after the interpreter and the file as
 * steps, in order: `out:TEXT`, `err:TEXT`, `outbytes:N`, `cat` (stdin to stdout), `sleep:MS`, `flood` (for ever), `silent` (the agent
 * stops answering), `vanish` (the machine dies without a report), `garbage` (a bad frame), `signal:N`, `oom`, `exit:N`. The end of the
 * steps is exit 0. `result:TEXT` and `artifact:NAME:TEXT` say what is left at an exit; `resultbytes:N` and `artifactbytes:N` leave N bytes.
 * `file:PATH` writes an input file to stdout. `lines:TAG:N:MS` writes N lines, MS apart, that say themselves whether one is missing, doubled or
 * damaged: the number from 1, and the first 16 hexadecimal digits of the SHA-256 of `TAG/NUMBER`. `effect:TEXT` does something to the world
 * that cannot be undone: it is written to the ledger. `trap:MS` takes a signal
 * from then on: it writes the number to stdout, and exits 0 after MS.
 */
export class FakeGuest implements GuestDouble {
  readonly ended: Promise<void>;
  #stream: Duplex;
  /** The newest connection has greeted. */
  #greeted = false;
  #startedNs: bigint | null = null;
  #exitFrame: GuestFrame | null = null;
  readonly #effect: (text: string) => void;
  readonly #ended = Promise.withResolvers<void>();
  readonly #sent: OfStreams<number> = ofStreams(() => 0);
  readonly #acknowledged: OfStreams<number> = ofStreams(() => 0);
  /** From what is acknowledged on. */
  readonly #kept: OfStreams<ByteWindow> = ofStreams(() => new ByteWindow(STREAM_WINDOW_BYTES));
  readonly #artifacts = new Map<string, Uint8Array>();
  /** Input files by their path. */
  readonly #files = new Map<string, Uint8Array[]>();
  #artifactsLimit = 0;
  #result: Uint8Array = new Uint8Array(0);
  #refused: { readonly what: Refused; readonly message: string } | null = null;
  readonly #stdin: Uint8Array[] = [];
  #stdinTaken = 0;
  #stdinOver = false;
  #silent = false;
  /** The process has ended; the agent still answers. */
  #exited = false;
  #over = false;
  #timer: NodeJS.Timeout | undefined;
  /** From a signal to the exit; null when a signal ends the process. */
  #trapMs: number | null = null;
  /** Resolves, and is made anew, at each change that the script may wait for. */
  #change = Promise.withResolvers<void>();

  constructor(stream: Duplex, console: (text: string) => void, effect: (text: string) => void = () => undefined) {
    this.#stream = stream;
    this.#effect = effect;
    this.ended = this.#ended.promise;
    this.connect(stream);
    console('fake guest: ready\n');
  }

  connect(stream: Duplex): void {
    this.#stream = stream;
    this.#greeted = false;
    // The host gives again what the function has not got.
    this.#stdin.length = 0;
    this.#stdinOver = false;
    const decoder = hostFrameDecoder();
    stream.on('data', (bytes: Uint8Array) => {
      for (const frame of decoder.push(bytes)) if (this.#stream === stream) this.#receive(frame);
    });
    stream.on('drain', () => this.#changed());
    this.#changed();
  }

  [Symbol.dispose](): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#changed();
    this.#ended.resolve();
  }

  #receive(frame: HostFrame): void {
    if (this.#over) return;
    switch (frame.type) {
      case 'HELLO':
        this.#greeted = true;
        this.#send({ type: 'HELLO', version: GUEST_FRAME_VERSION, nonce: frame.nonce, agentVersion: 'fake' });
        return this.#sayAgain();
      case 'TASK': {
        this.#artifactsLimit = frame.artifactsLimit;
        void this.#run(configOf(frame.config).process.args.slice(2)).catch((error: unknown) => {
          if (!(error instanceof Over)) this.#fault(error);
        });
        return;
      }
      case 'STDIN':
        this.#stdin.push(frame.data.slice());
        return this.#changed();
      case 'STDIN_END':
        this.#stdinOver = true;
        return this.#changed();
      case 'SIGNAL':
        if (this.#trapMs === null) return this.#exit('signaled', frame.signal, false);
        void this.#caught(frame.signal, this.#trapMs).catch(() => undefined);
        return;
      case 'PING':
        return this.#send({ type: 'PONG', token: frame.token });
      case 'ACK':
        this.#kept[frame.stream].forget(frame.offset);
        this.#acknowledged[frame.stream] = frame.offset;
        return this.#changed();
      case 'POWEROFF':
        return this[Symbol.dispose]();
      case 'SEED':
        return;
      case 'FILE':
        this.#files.set(frame.path, []);
        return;
      case 'FILE_DATA':
        [...this.#files.values()].at(-1)?.push(frame.data.slice());
        return;
      default:
        return assertNever(frame);
    }
  }

  async #run(steps: readonly string[]): Promise<void> {
    this.#startedNs = process.hrtime.bigint();
    this.#send({ type: 'STARTED', monotonicNs: this.#startedNs });
    for (const step of steps) await this.#play(step);
    await this.#leave();
    this.#exit('exited', 0, false);
  }

  async #play(step: string): Promise<void> {
    const [verb = '', ...rest] = step.split(':');
    const argument = rest.join(':');
    switch (verb) {
      case 'out':
        return this.#write('stdout', Buffer.from(argument));
      case 'err':
        return this.#write('stderr', Buffer.from(argument));
      case 'outbytes':
        return this.#writePattern(Number(argument));
      case 'flood':
        return this.#writePattern(Infinity);
      case 'lines':
        return this.#writeLines(rest[0]!, Number(rest[1]), Number(rest[2]));
      case 'effect':
        return this.#effect(argument);
      case 'cat':
        return this.#cat();
      case 'sleep':
        return this.#sleep(Number(argument));
      case 'trap':
        this.#trapMs = Number(argument);
        return;
      case 'silent':
        this.#silent = true;
        return;
      case 'vanish':
        this[Symbol.dispose]();
        throw new Over();
      case 'garbage':
        this.#stream.write(Buffer.from([1, 0, 0, 0, 0x7f]));
        return;
      case 'signal':
        this.#exit('signaled', Number(argument), false);
        throw new Over();
      case 'oom':
        this.#exit('signaled', constants.signals.SIGKILL, true);
        throw new Over();
      case 'file':
        return this.#write('stdout', Buffer.concat(this.#files.get(argument) ?? []));
      case 'result':
        this.#result = Buffer.from(argument);
        return;
      case 'resultbytes':
        this.#result = Buffer.alloc(Number(argument), '7');
        return;
      case 'artifact':
        this.#artifacts.set(rest[0]!, Buffer.from(rest.slice(1).join(':')));
        return;
      case 'artifactbytes':
        this.#artifacts.set('file', Buffer.alloc(Number(argument), PATTERN));
        return;
      case 'exit':
        await this.#leave();
        this.#exit('exited', Number(argument), false);
        throw new Over();
      default:
        throw new Error(`the fake driver runs no code, and knows no step ${JSON.stringify(step)}`);
    }
  }

  /** What is left is sent, unless it is more than is taken. */
  async #leave(): Promise<void> {
    const artifacts = archiveOf(this.#artifacts);
    if (this.#result.length > MAX_RESULT_BYTES) {
      this.#refused = { what: 'result', message: `the result is ${this.#result.length} bytes long` };
    } else if (artifacts.length > this.#artifactsLimit) {
      this.#refused = { what: 'artifacts', message: `the artifacts: they are ${artifacts.length} bytes as an archive` };
    } else {
      await this.#write('result', this.#result);
      await this.#write('artifacts', artifacts);
    }
  }

  async #write(stream: AttemptStream, data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length;) {
      const room = this.#acknowledged[stream] + STREAM_WINDOW_BYTES - this.#sent[stream];
      if (room <= 0 || (this.#greeted && this.#stream.writableNeedDrain)) {
        await this.#wait();
        continue;
      }
      const piece = data.subarray(at, at + Math.min(room, MAX_GUEST_DATA_BYTES));
      this.#kept[stream].push(piece);
      this.#send({ type: FRAME_OF_STREAM[stream], offset: this.#sent[stream], data: piece });
      this.#sent[stream] += piece.length;
      at += piece.length;
    }
  }

  async #writePattern(count: number): Promise<void> {
    const page = Buffer.alloc(MAX_GUEST_DATA_BYTES, PATTERN);
    for (let left = count; left > 0; left -= page.length) {
      await this.#write('stdout', page.subarray(0, left));
      // Both ends are in one process: without a pause the conversation would never leave the microtask queue.
      await setImmediate();
      if (this.#over || this.#exited) throw new Over();
    }
  }

  async #writeLines(tag: string, count: number, pauseMs: number): Promise<void> {
    const line = (number: number) =>
      `${number} ${createHash('sha256').update(`${tag}/${number}`).digest('hex').slice(0, 16)}\n`;
    const atOnce = pauseMs === 0 ? LINES_AT_ONCE : 1;
    for (let from = 1; from <= count; from += atOnce) {
      const many = Math.min(atOnce, count - from + 1);
      await this.#write('stdout', Buffer.from(Array.from({ length: many }, (_, at) => line(from + at)).join('')));
      await (pauseMs === 0 ? setImmediate() : this.#sleep(pauseMs));
      if (this.#over || this.#exited) throw new Over();
    }
  }

  async #cat(): Promise<void> {
    for (;;) {
      const piece = this.#stdin.shift();
      if (piece !== undefined) {
        this.#stdinTaken += piece.length;
        await this.#write('stdout', piece);
        this.#send({ type: 'STDIN_ACK', offset: this.#stdinTaken });
      } else if (this.#stdinOver) return;
      else await this.#wait();
    }
  }

  async #sleep(durationMs: number): Promise<void> {
    let over = false;
    this.#timer = setTimeout(() => {
      over = true;
      this.#changed();
    }, durationMs);
    while (!over) await this.#wait();
  }

  async #caught(signal: number, durationMs: number): Promise<void> {
    await this.#write('stdout', Buffer.from(`caught ${signal}\n`));
    await sleep(durationMs, undefined, { ref: false });
    await this.#leave();
    if (!this.#over) this.#exit('exited', 0, false);
  }

  async #wait(): Promise<void> {
    if (!this.#exited) await this.#change.promise;
    if (this.#over || this.#exited) throw new Over();
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  #exit(kind: 'exited' | 'signaled', code: number, oom: boolean): void {
    if (this.#exited) return;
    this.#exited = true;
    const [stdoutLength, stderrLength, resultLength, artifactsLength] = ATTEMPT_STREAMS.map((name) => this.#sent[name]);
    this.#exitFrame = {
      type: 'EXIT',
      kind,
      oom,
      code,
      stdoutLength: stdoutLength!,
      stderrLength: stderrLength!,
      resultLength: resultLength!,
      artifactsLength: artifactsLength!,
      artifactFiles: artifactsLength === 0 ? 0 : this.#artifacts.size,
      cpuUs: 0,
      memoryPeakBytes: 0,
      refused: this.#refused?.what ?? null,
      message: this.#refused?.message ?? '',
    };
    this.#send(this.#exitFrame);
    this.#changed();
  }

  #fault(error: unknown): void {
    const message = error instanceof Error ? error.message.slice(0, 500) : 'unknown';
    this.#send({ type: 'FAULT', stage: 'start', errno: 0, message });
  }

  #send(frame: GuestFrame): void {
    if (!this.#over && !this.#silent && this.#greeted) this.#stream.write(encodeGuestFrame(frame));
  }

  /** What an earlier connection may not have heard. */
  #sayAgain(): void {
    if (this.#startedNs === null) return;
    this.#send({ type: 'STARTED', monotonicNs: this.#startedNs });
    this.#send({ type: 'STDIN_ACK', offset: this.#stdinTaken });
    for (const stream of ATTEMPT_STREAMS) {
      const kept = this.#kept[stream];
      for (let offset = kept.start; offset < kept.end; offset += MAX_GUEST_DATA_BYTES) {
        this.#send({ type: FRAME_OF_STREAM[stream], offset, data: kept.slice(offset, MAX_GUEST_DATA_BYTES) });
      }
    }
    if (this.#exitFrame !== null) this.#send(this.#exitFrame);
    this.#changed();
  }
}
