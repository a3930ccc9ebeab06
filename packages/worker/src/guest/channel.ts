import {
  ATTEMPT_STREAMS,
  type AttemptStream,
  assertNever,
  encodeHostFrame,
  GUEST_FRAME_VERSION,
  type GuestFrame,
  guestFrameDecoder,
  type HostFrame,
  MAX_GUEST_DATA_BYTES,
  MAX_RESULT_BYTES,
  type OfStreams,
  ofStreams,
  STDIN_WINDOW_BYTES,
  STREAM_WINDOW_BYTES,
} from '@cocore/protocol';
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { awakeClock, type Clock } from '../host/clock.ts';
import type { StdinSource } from './stdin.ts';

type ExitFrame = Extract<GuestFrame, { type: 'EXIT' }>;
type FaultFrame = Extract<GuestFrame, { type: 'FAULT' }>;

/** Why a conversation cannot go on: the guest broke the contract, or the stream ended before the guest's last word. */
export interface ChannelFailure {
  readonly kind: 'protocol' | 'closed';
  readonly message: string;
}

/**
 * What the agent says after the greeting, in the order of the contract: started, output, what the function left, then one end; or one
 * failure at any time before the end.
 */
export interface GuestListener {
  started(): void;
  /** The next bytes of a stream, gapless. The view is valid during the call only. */
  output(stream: AttemptStream, data: Uint8Array): void;
  ended(end: ExitFrame | FaultFrame): void;
  failed(failure: ChannelFailure): void;
}

/** A file in the container's root, for a user of the container. */
export interface GuestFile {
  readonly path: string;
  readonly user: number;
  readonly group: number;
  readonly content: StdinSource;
}

/** What cannot be sent yet waits in the stream's own buffer; more than this, and what can be left out or merged is. */
const BACKLOG_BYTES = 128 * 1024;
const SEED_BYTES = 64;
/** Of output there may be any amount. */
const LIMITS: OfStreams<number> = { stdout: Infinity, stderr: Infinity, result: MAX_RESULT_BYTES, artifacts: 0 };

type State = 'new' | 'greeting' | 'greeted' | 'tasked' | 'running' | 'ended' | 'failed';

/**
 * The host's end of the conversation with one agent (`docs/reference/guest-frames.md`), over any duplex stream. It believes
 * nothing: what is malformed, out of order, beyond its credit or at a wrong offset ends the conversation. What it holds is
 * bounded whatever the guest does: one frame read, and written at most the task, the window of standard input, and a backlog.
 */
export class GuestChannel implements Disposable {
  readonly #stream: Duplex;
  readonly #listener: GuestListener;
  readonly #clock: Clock;
  readonly #decoder = guestFrameDecoder();
  readonly #received: OfStreams<number> = ofStreams(() => 0);
  /** Told to the guest, or about to be: its credit counts from here. */
  readonly #acknowledged: OfStreams<number> = ofStreams(() => 0);
  readonly #unsentAcks = new Set<AttemptStream>();
  #limits: OfStreams<number> = LIMITS;
  #state: State = 'new';
  #nonce: Buffer = Buffer.alloc(0);
  #greeted = Promise.withResolvers<string>();
  #lastPing = 0n;
  #lastPong = 0n;
  #pongAtMs: number | null = null;
  #stdin: StdinSource | null = null;
  #stdinSent = 0;
  #stdinAcknowledged = 0;
  #stdinBusy = false;
  #stdinEnded = false;
  /** Of an agent that was taken up: what it said and is not heard yet; null when nothing is held back. */
  #held: GuestFrame[] | null = null;
  /** Of an agent that was taken up: what is before these was heard in an earlier life of the daemon. */
  #heardBefore: OfStreams<number> = ofStreams(() => 0);
  /** Streams of it that have said nothing yet, so that it is not known where they go on. */
  readonly #unplaced = new Set<AttemptStream>();
  /** Where standard input goes on is the agent's to say. */
  #stdinUnplaced = false;

  constructor(stream: Duplex, listener: GuestListener, clock: Clock = awakeClock) {
    this.#stream = stream;
    this.#listener = listener;
    this.#clock = clock;
    // A conversation that fails before anybody awaits the greeting is reported by the listener.
    this.#greeted.promise.catch(() => undefined);
    stream.on('data', this.#onData).on('drain', this.#onDrain);
    stream.on('end', this.#onClosed).on('close', this.#onClosed).on('error', this.#onClosed);
  }

  /** Stops listening. The stream stays the sandbox's. */
  [Symbol.dispose](): void {
    // An error costs more than a look whether anybody waits for it.
    if (this.#isGreeting) this.#greeted.reject(new Error('the conversation was given up'));
    if (this.#state !== 'ended') this.#state = 'failed';
    this.#stream.off('data', this.#onData).off('drain', this.#onDrain);
    this.#stream.off('end', this.#onClosed).off('close', this.#onClosed);
    // The handler for 'error' stays: a stream that breaks later must not end the daemon.
  }

  /** Greets, and resolves with the agent's version. Rejects when the conversation fails before. */
  async hello(): Promise<string> {
    this.#nonce = randomBytes(16);
    this.#state = 'greeting';
    this.#send({ type: 'HELLO', version: GUEST_FRAME_VERSION, nonce: this.#nonce });
    return this.#greeted.promise;
  }

  /**
   * Gives the agent clock, entropy and its one task, then standard input as far as the guest takes it.
   *
   * @param artifactsLimit how many bytes the function's artifacts may be, as an archive
   * @param files given before the task, so that they are there when it starts
   */
  start(config: Uint8Array, stdin: StdinSource, artifactsLimit = 0, files: readonly GuestFile[] = []): void {
    if (this.#state !== 'greeted') return;
    this.#state = 'tasked';
    this.#stdin = stdin;
    this.#limits = { ...LIMITS, artifacts: artifactsLimit };
    this.#send({ type: 'SEED', epochNs: BigInt(Date.now()) * 1_000_000n, entropy: randomBytes(SEED_BYTES) });
    const task = () => {
      this.#send({ type: 'TASK', artifactsLimit, config });
      this.#pumpStdin();
    };
    if (files.length === 0) return task();
    this.#sendFiles(files).then(task, (error: unknown) => {
      this.#fail('closed', `a file cannot be given: ${error instanceof Error ? error.message : 'unknown'}`);
    });
  }

  /** Greets an agent that has its task from an earlier life of the daemon. What it says then waits for `resume`. */
  takeUp(): Promise<string> {
    this.#held = [];
    return this.hello();
  }

  /**
   * Goes on with an agent that was taken up. It says again what was not acknowledged to it; of each stream, what comes before `heard` is not told
   * to the listener.
   */
  resume(stdin: StdinSource, artifactsLimit: number, heard: OfStreams<number>): void {
    const held = this.#held;
    if (this.#state !== 'greeted' || held === null) return;
    this.#state = 'tasked';
    this.#stdin = stdin;
    this.#stdinUnplaced = true;
    this.#limits = { ...LIMITS, artifacts: artifactsLimit };
    this.#heardBefore = heard;
    for (const stream of ATTEMPT_STREAMS) this.#unplaced.add(stream);
    this.#held = null;
    try {
      for (const frame of held) this.#receive(frame);
    } catch (error) {
      this.#fail('protocol', error instanceof Error ? error.message : 'a frame cannot be read');
    }
    this.#stream.resume();
  }

  /** All bytes of the stream before `offset` are kept: the guest may send more. */
  acknowledge(stream: AttemptStream, offset: number): void {
    if (offset <= this.#acknowledged[stream] || this.#state !== 'running' || this.#unplaced.has(stream)) return;
    this.#acknowledged[stream] = Math.min(offset, this.#received[stream]);
    this.#unsentAcks.add(stream);
    this.#sendAcks();
  }

  /** A guest that reads nothing is not pinged on and on: its silence shows in `ageMs`. */
  ping(): void {
    if (this.#state === 'new' || this.#state === 'failed' || this.#stream.writableLength > BACKLOG_BYTES) return;
    this.#lastPing += 1n;
    this.#send({ type: 'PING', token: this.#lastPing });
  }

  /** To the function's first process, while it runs. */
  signal(signal: number): void {
    if (this.#state === 'running') this.#send({ type: 'SIGNAL', signal });
  }

  powerOff(): void {
    if (this.#state !== 'new' && this.#state !== 'failed') this.#send({ type: 'POWEROFF' });
  }

  /** How long ago the agent last answered a ping (or the greeting); null before its first word. */
  ageMs(): number | null {
    return this.#pongAtMs === null ? null : Math.max(0, this.#clock() - this.#pongAtMs);
  }

  readonly #onData = (bytes: Uint8Array) => {
    try {
      for (const frame of this.#decoder.push(bytes)) {
        if (this.#state === 'failed') return;
        this.#receive(frame);
      }
    } catch (error) {
      this.#fail('protocol', error instanceof Error ? error.message : 'a frame cannot be read');
    }
  };

  readonly #onClosed = () => {
    if (this.#state !== 'ended') this.#fail('closed', 'the agent’s stream ended before its report');
  };

  readonly #onDrain = () => this.#sendAcks();

  #receive(frame: GuestFrame): void {
    if (this.#held !== null && frame.type !== 'HELLO' && frame.type !== 'PONG') {
      // Its bytes are a view of what is read next.
      this.#held.push('data' in frame ? { ...frame, data: frame.data.slice() } : frame);
      this.#stream.pause();
      return;
    }
    switch (frame.type) {
      case 'HELLO':
        this.#expect(this.#state === 'greeting', 'a HELLO that nobody waits for');
        this.#expect(frame.version === GUEST_FRAME_VERSION, `frame version ${frame.version}`);
        this.#expect(this.#nonce.equals(frame.nonce), 'a HELLO with another nonce');
        this.#state = 'greeted';
        this.#pongAtMs = this.#clock();
        return this.#greeted.resolve(frame.agentVersion);
      case 'STARTED':
        this.#expect(this.#state === 'tasked', 'a STARTED that nobody waits for');
        this.#state = 'running';
        return this.#listener.started();
      case 'STDOUT':
        return this.#receiveOutput('stdout', frame.offset, frame.data);
      case 'STDERR':
        return this.#receiveOutput('stderr', frame.offset, frame.data);
      case 'RESULT':
        return this.#receiveOutput('result', frame.offset, frame.data);
      case 'ARTIFACTS':
        return this.#receiveOutput('artifacts', frame.offset, frame.data);
      case 'STDIN_ACK':
        this.#expect(this.#state === 'running', 'a STDIN_ACK while nothing runs');
        if (this.#stdinUnplaced) {
          this.#stdinUnplaced = false;
          this.#stdinSent = Math.min(frame.offset, this.#stdin!.length);
        }
        this.#expect(
          frame.offset >= this.#stdinAcknowledged && frame.offset <= this.#stdinSent,
          'a STDIN_ACK of bytes that were not sent, or are acknowledged',
        );
        this.#stdinAcknowledged = frame.offset;
        return this.#pumpStdin();
      case 'EXIT':
        this.#expect(this.#state === 'running', 'an EXIT while nothing runs');
        // They had nothing more to say.
        for (const stream of this.#unplaced) this.#received[stream] = this.#heardBefore[stream];
        this.#expect(
          frame.stdoutLength === this.#received.stdout &&
            frame.stderrLength === this.#received.stderr &&
            frame.resultLength === this.#received.result &&
            frame.artifactsLength === this.#received.artifacts,
          'an EXIT whose lengths are not those of its streams',
        );
        this.#state = 'ended';
        return this.#listener.ended(frame);
      case 'FAULT':
        this.#expect(['greeted', 'tasked', 'running'].includes(this.#state), 'a FAULT out of order');
        this.#state = 'ended';
        return this.#listener.ended(frame);
      case 'PONG':
        this.#expect(frame.token > this.#lastPong && frame.token <= this.#lastPing, 'a PONG without a PING');
        this.#expect(this.#state !== 'greeting', 'a PONG before HELLO');
        this.#lastPong = frame.token;
        this.#pongAtMs = this.#clock();
        return;
      default:
        return assertNever(frame);
    }
  }

  #receiveOutput(stream: AttemptStream, offset: number, data: Uint8Array): void {
    this.#expect(this.#state === 'running', 'output while nothing runs');
    const heard = this.#heardBefore[stream];
    if (this.#unplaced.delete(stream)) {
      this.#expect(offset <= heard, `${stream} from beyond what was heard of it`);
      this.#received[stream] = this.#acknowledged[stream] = offset;
    }
    this.#expect(offset === this.#received[stream], `${stream} at a wrong offset`);
    const end = offset + data.length;
    this.#expect(end <= this.#acknowledged[stream] + STREAM_WINDOW_BYTES, `${stream} beyond its credit`);
    this.#expect(end <= this.#limits[stream], `more ${stream} than the task allows`);
    this.#received[stream] = end;
    if (offset < heard) this.acknowledge(stream, Math.min(end, heard));
    if (end > heard) this.#listener.output(stream, data.subarray(Math.max(0, heard - offset)));
  }

  get #isGreeting(): boolean {
    return this.#state === 'new' || this.#state === 'greeting';
  }

  #expect(condition: boolean, otherwise: string): void {
    if (!condition) throw new Error(`the agent sent ${otherwise}`);
  }

  #fail(kind: ChannelFailure['kind'], message: string): void {
    if (this.#state === 'failed' || this.#state === 'ended') return;
    const isGreeting = this.#isGreeting;
    this.#state = 'failed';
    if (isGreeting) this.#greeted.reject(new Error(message));
    else this.#listener.failed({ kind, message });
  }

  #send(frame: HostFrame): void {
    if (this.#state !== 'failed' && this.#stream.writable) this.#stream.write(encodeHostFrame(frame));
  }

  /** A guest that does not read gets no more acknowledgements; later it gets the newest of each stream. */
  #sendAcks(): void {
    for (const stream of this.#unsentAcks) {
      if (this.#state !== 'running' || this.#stream.writableLength > BACKLOG_BYTES) return;
      this.#unsentAcks.delete(stream);
      this.#send({ type: 'ACK', stream, offset: this.#acknowledged[stream] });
    }
  }

  /** No faster than the guest takes them. */
  async #sendFiles(files: readonly GuestFile[]): Promise<void> {
    const live = () => this.#state === 'tasked';
    for (const { path, user, group, content } of files) {
      this.#send({ type: 'FILE', user, group, size: content.length, path });
      for (let at = 0; live() && at < content.length;) {
        const data = await content.read(at, Math.min(MAX_GUEST_DATA_BYTES, content.length - at));
        if (!live()) return;
        this.#send({ type: 'FILE_DATA', data });
        at += data.length;
        while (live() && this.#stream.writableNeedDrain) await this.#drained();
      }
    }
  }

  /** Resolves when more may be written, or nothing will be any more. */
  #drained(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#stream.off('drain', done).off('close', done);
        resolve();
      };
      this.#stream.on('drain', done).on('close', done);
    });
  }

  #pumpStdin(): void {
    if (this.#stdinBusy) return;
    this.#stdinBusy = true;
    this.#sendStdin()
      .catch((error: unknown) => {
        this.#fail('closed', `standard input cannot be read: ${error instanceof Error ? error.message : 'unknown'}`);
      })
      .finally(() => (this.#stdinBusy = false));
  }

  async #sendStdin(): Promise<void> {
    const source = this.#stdin;
    if (source === null || this.#stdinEnded || this.#stdinUnplaced) return;
    const live = () => this.#state === 'tasked' || this.#state === 'running';
    while (live() && this.#stdinSent < source.length) {
      const room = this.#stdinAcknowledged + STDIN_WINDOW_BYTES - this.#stdinSent;
      const count = Math.min(room, MAX_GUEST_DATA_BYTES, source.length - this.#stdinSent);
      if (count <= 0) return;
      const data = await source.read(this.#stdinSent, count);
      if (!live()) return;
      this.#send({ type: 'STDIN', offset: this.#stdinSent, data });
      this.#stdinSent += data.length;
    }
    if (!live()) return;
    this.#stdinEnded = true;
    this.#send({ type: 'STDIN_END', length: source.length });
  }
}
