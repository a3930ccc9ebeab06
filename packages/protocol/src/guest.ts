import { assertNever } from './errors.ts';
import { ATTEMPT_STREAMS, type AttemptStream } from './leavings.ts';
import { MAX_ARTIFACT_ENTRIES } from './limits.ts';

/**
 * The daemon's conversation with the agent: length-prefixed frames on a byte stream. The specification, shared with the C
 * agent, is `docs/reference/guest-frames.md`; the golden files in `guest/golden` hold both to it.
 */
export const GUEST_FRAME_VERSION = 2;
export const MAX_GUEST_DATA_BYTES = 64 * 1024;
/** Type and payload of any frame but TASK. */
export const MAX_GUEST_FRAME_BYTES = 65_552;
export const MAX_TASK_FRAME_BYTES = 8 * 1024 * 1024;
/** How far the host may send standard input beyond what the agent acknowledged. */
export const STDIN_WINDOW_BYTES = 256 * 1024;

const MAX_FAULT_MESSAGE_BYTES = 1024;
const MAX_AGENT_VERSION_BYTES = 64;
const NONCE_BYTES = 16;
const MAX_FILE_PATH_BYTES = 1024;

export const FAULT_STAGES = ['setup', 'image', 'start', 'protocol'] as const;
export type FaultStage = (typeof FAULT_STAGES)[number];

export const REFUSED = ['result', 'artifacts'] as const;
export type Refused = (typeof REFUSED)[number];

/** Offsets and lengths are safe integers; other 64-bit values are bigints. */
export type HostFrame =
  | { type: 'HELLO'; version: number; nonce: Uint8Array }
  | { type: 'TASK'; artifactsLimit: number; config: Uint8Array }
  | { type: 'STDIN'; offset: number; data: Uint8Array }
  | { type: 'STDIN_END'; length: number }
  | { type: 'SIGNAL'; signal: number }
  | { type: 'SEED'; epochNs: bigint; entropy: Uint8Array }
  | { type: 'PING'; token: bigint }
  | { type: 'ACK'; stream: AttemptStream; offset: number }
  | { type: 'POWEROFF' }
  /** Before TASK: a file for the function, whose bytes follow. */
  | { type: 'FILE'; user: number; group: number; size: number; path: string }
  | { type: 'FILE_DATA'; data: Uint8Array };

export type GuestFrame =
  | { type: 'HELLO'; version: number; nonce: Uint8Array; agentVersion: string }
  | { type: 'STARTED'; monotonicNs: bigint }
  | { type: 'STDOUT'; offset: number; data: Uint8Array }
  | { type: 'STDERR'; offset: number; data: Uint8Array }
  | { type: 'RESULT'; offset: number; data: Uint8Array }
  | { type: 'ARTIFACTS'; offset: number; data: Uint8Array }
  | {
      type: 'EXIT';
      kind: 'exited' | 'signaled';
      oom: boolean;
      /** The exit code, or the signal's number. */
      code: number;
      stdoutLength: number;
      stderrLength: number;
      resultLength: number;
      artifactsLength: number;
      /** Regular files among the artifacts. */
      artifactFiles: number;
      cpuUs: number;
      memoryPeakBytes: number;
      /** What the function left and was not taken, and why; then neither is sent. */
      refused: Refused | null;
      message: string;
    }
  | { type: 'PONG'; token: bigint }
  | { type: 'STDIN_ACK'; offset: number }
  | { type: 'FAULT'; stage: FaultStage; errno: number; message: string };

/** Why a frame was not accepted; the names are those of the golden files. */
export type GuestFrameError = 'too_long' | 'empty' | 'unknown_type' | 'bad_payload';

/** A frame that breaks the contract. The sandbox that sent it is ended. */
export class GuestProtocolError extends Error {
  readonly error: GuestFrameError;

  constructor(error: GuestFrameError, message: string) {
    super(message);
    this.name = 'GuestProtocolError';
    this.error = error;
  }
}

const HOST_TYPE = {
  HELLO: 0x01,
  TASK: 0x02,
  STDIN: 0x03,
  STDIN_END: 0x04,
  SIGNAL: 0x05,
  SEED: 0x06,
  PING: 0x07,
  ACK: 0x08,
  POWEROFF: 0x09,
  FILE: 0x0a,
  FILE_DATA: 0x0b,
} as const;

const GUEST_TYPE = {
  HELLO: 0x81,
  STARTED: 0x82,
  STDOUT: 0x83,
  STDERR: 0x84,
  EXIT: 0x85,
  PONG: 0x86,
  STDIN_ACK: 0x87,
  FAULT: 0x88,
  RESULT: 0x89,
  ARTIFACTS: 0x8a,
} as const;

type Direction = 'host' | 'guest';

// --- Writing

/** A frame under construction: the length prefix and type are filled in by `finish`. */
class FrameWriter {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 5;

  constructor(type: number, payloadBytes: number) {
    this.#bytes = new Uint8Array(5 + payloadBytes);
    this.#view = new DataView(this.#bytes.buffer);
    this.#view.setUint32(0, payloadBytes + 1, true);
    this.#view.setUint8(4, type);
  }

  u8(value: number): this {
    this.#view.setUint8(this.#at, value);
    this.#at += 1;
    return this;
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value, true);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
    return this;
  }

  u64(value: number | bigint): this {
    this.#view.setBigUint64(this.#at, BigInt(value), true);
    this.#at += 8;
    return this;
  }

  bytes(value: Uint8Array): this {
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
    return this;
  }

  finish(): Uint8Array {
    if (this.#at !== this.#bytes.length) throw new RangeError('frame length does not match its fields');
    return this.#bytes;
  }
}

/** What each stream's bytes come in. */
export const FRAME_OF_STREAM = {
  stdout: 'STDOUT',
  stderr: 'STDERR',
  result: 'RESULT',
  artifacts: 'ARTIFACTS',
} as const satisfies Record<AttemptStream, GuestFrame['type']>;

const streamNumber = (stream: AttemptStream) => ATTEMPT_STREAMS.indexOf(stream) + 1;

export function encodeHostFrame(frame: HostFrame): Uint8Array {
  switch (frame.type) {
    case 'HELLO':
      return new FrameWriter(HOST_TYPE.HELLO, 2 + NONCE_BYTES).u16(frame.version).bytes(frame.nonce).finish();
    case 'TASK':
      return new FrameWriter(HOST_TYPE.TASK, 8 + frame.config.length)
        .u64(frame.artifactsLimit)
        .bytes(frame.config)
        .finish();
    case 'STDIN':
      return new FrameWriter(HOST_TYPE.STDIN, 8 + frame.data.length).u64(frame.offset).bytes(frame.data).finish();
    case 'STDIN_END':
      return new FrameWriter(HOST_TYPE.STDIN_END, 8).u64(frame.length).finish();
    case 'SIGNAL':
      return new FrameWriter(HOST_TYPE.SIGNAL, 4).u32(frame.signal).finish();
    case 'SEED':
      return new FrameWriter(HOST_TYPE.SEED, 8 + frame.entropy.length).u64(frame.epochNs).bytes(frame.entropy).finish();
    case 'PING':
      return new FrameWriter(HOST_TYPE.PING, 8).u64(frame.token).finish();
    case 'ACK':
      return new FrameWriter(HOST_TYPE.ACK, 9).u8(streamNumber(frame.stream)).u64(frame.offset).finish();
    case 'POWEROFF':
      return new FrameWriter(HOST_TYPE.POWEROFF, 0).finish();
    case 'FILE': {
      const path = new TextEncoder().encode(frame.path);
      return new FrameWriter(HOST_TYPE.FILE, 16 + path.length)
        .u32(frame.user)
        .u32(frame.group)
        .u64(frame.size)
        .bytes(path)
        .finish();
    }
    case 'FILE_DATA':
      return new FrameWriter(HOST_TYPE.FILE_DATA, frame.data.length).bytes(frame.data).finish();
    default:
      return assertNever(frame);
  }
}

export function encodeGuestFrame(frame: GuestFrame): Uint8Array {
  switch (frame.type) {
    case 'HELLO': {
      const version = new TextEncoder().encode(frame.agentVersion);
      return new FrameWriter(GUEST_TYPE.HELLO, 2 + NONCE_BYTES + version.length)
        .u16(frame.version)
        .bytes(frame.nonce)
        .bytes(version)
        .finish();
    }
    case 'STARTED':
      return new FrameWriter(GUEST_TYPE.STARTED, 8).u64(frame.monotonicNs).finish();
    case 'STDOUT':
    case 'STDERR':
    case 'RESULT':
    case 'ARTIFACTS':
      return new FrameWriter(GUEST_TYPE[frame.type], 8 + frame.data.length)
        .u64(frame.offset)
        .bytes(frame.data)
        .finish();
    case 'EXIT': {
      const message = new TextEncoder().encode(frame.message);
      return new FrameWriter(GUEST_TYPE.EXIT, 59 + message.length)
        .u8(frame.kind === 'exited' ? 0 : 1)
        .u8(frame.oom ? 1 : 0)
        .u32(frame.code)
        .u64(frame.stdoutLength)
        .u64(frame.stderrLength)
        .u64(frame.resultLength)
        .u64(frame.artifactsLength)
        .u32(frame.artifactFiles)
        .u64(frame.cpuUs)
        .u64(frame.memoryPeakBytes)
        .u8(frame.refused === null ? 0 : REFUSED.indexOf(frame.refused) + 1)
        .bytes(message)
        .finish();
    }
    case 'PONG':
      return new FrameWriter(GUEST_TYPE.PONG, 8).u64(frame.token).finish();
    case 'STDIN_ACK':
      return new FrameWriter(GUEST_TYPE.STDIN_ACK, 8).u64(frame.offset).finish();
    case 'FAULT': {
      const message = new TextEncoder().encode(frame.message);
      return new FrameWriter(GUEST_TYPE.FAULT, 5 + message.length)
        .u8(FAULT_STAGES.indexOf(frame.stage) + 1)
        .u32(frame.errno)
        .bytes(message)
        .finish();
    }
    default:
      return assertNever(frame);
  }
}

// --- Reading

/** Reads one payload; every read past the end, and every byte left over, is `bad_payload`. */
class PayloadReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #take(count: number): number {
    if (this.#at + count > this.#bytes.length) throw bad('a payload is too short');
    this.#at += count;
    return this.#at - count;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  /** A u64 that must be a safe integer. */
  size(): number {
    const value = this.u64();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw bad('a number is out of range');
    return Number(value);
  }

  oneOf<T>(values: readonly T[], first: number): T {
    const index = this.u8() - first;
    const value = values[index];
    if (index < 0 || value === undefined) throw bad('a field has an unknown value');
    return value;
  }

  fixed(count: number): Uint8Array {
    const from = this.#take(count);
    return this.#bytes.subarray(from, from + count);
  }

  rest(min: number, max: number): Uint8Array {
    const count = this.#bytes.length - this.#at;
    if (count < min || count > max) throw bad('a payload has a wrong length');
    return this.fixed(count);
  }

  text(min: number, max: number): string {
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.rest(min, max));
    } catch {
      throw bad('a text is not UTF-8 of a right length');
    }
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw bad('a payload is too long');
  }
}

const bad = (message: string) => new GuestProtocolError('bad_payload', message);

function readHostPayload(type: number, payload: PayloadReader): HostFrame {
  switch (type) {
    case HOST_TYPE.HELLO:
      return { type: 'HELLO', version: payload.u16(), nonce: payload.fixed(NONCE_BYTES) };
    case HOST_TYPE.TASK:
      return { type: 'TASK', artifactsLimit: payload.size(), config: payload.rest(1, MAX_TASK_FRAME_BYTES - 9) };
    case HOST_TYPE.STDIN:
      return { type: 'STDIN', offset: payload.size(), data: payload.rest(1, MAX_GUEST_DATA_BYTES) };
    case HOST_TYPE.STDIN_END:
      return { type: 'STDIN_END', length: payload.size() };
    case HOST_TYPE.SIGNAL: {
      const signal = payload.u32();
      if (signal < 1 || signal > 64) throw bad('a signal is out of range');
      return { type: 'SIGNAL', signal };
    }
    case HOST_TYPE.SEED:
      return { type: 'SEED', epochNs: payload.u64(), entropy: payload.rest(32, 256) };
    case HOST_TYPE.PING:
      return { type: 'PING', token: payload.u64() };
    case HOST_TYPE.ACK:
      return { type: 'ACK', stream: payload.oneOf(ATTEMPT_STREAMS, 1), offset: payload.size() };
    case HOST_TYPE.POWEROFF:
      return { type: 'POWEROFF' };
    case HOST_TYPE.FILE: {
      const [user, group, size] = [payload.u32(), payload.u32(), payload.size()];
      const path = payload.text(2, MAX_FILE_PATH_BYTES);
      if (!path.startsWith('/') || path.includes('\0')) throw bad('a path is not absolute');
      return { type: 'FILE', user, group, size, path };
    }
    case HOST_TYPE.FILE_DATA:
      return { type: 'FILE_DATA', data: payload.rest(1, MAX_GUEST_DATA_BYTES) };
    default:
      throw new GuestProtocolError('unknown_type', `frame type ${type} is unknown`);
  }
}

function readGuestPayload(type: number, payload: PayloadReader): GuestFrame {
  switch (type) {
    case GUEST_TYPE.HELLO:
      return {
        type: 'HELLO',
        version: payload.u16(),
        nonce: payload.fixed(NONCE_BYTES),
        agentVersion: payload.text(1, MAX_AGENT_VERSION_BYTES),
      };
    case GUEST_TYPE.STARTED:
      return { type: 'STARTED', monotonicNs: payload.u64() };
    case GUEST_TYPE.STDOUT:
      return { type: 'STDOUT', offset: payload.size(), data: payload.rest(1, MAX_GUEST_DATA_BYTES) };
    case GUEST_TYPE.STDERR:
      return { type: 'STDERR', offset: payload.size(), data: payload.rest(1, MAX_GUEST_DATA_BYTES) };
    case GUEST_TYPE.RESULT:
      return { type: 'RESULT', offset: payload.size(), data: payload.rest(1, MAX_GUEST_DATA_BYTES) };
    case GUEST_TYPE.ARTIFACTS:
      return { type: 'ARTIFACTS', offset: payload.size(), data: payload.rest(1, MAX_GUEST_DATA_BYTES) };
    case GUEST_TYPE.EXIT: {
      const kind = payload.oneOf(['exited', 'signaled'] as const, 0);
      const oom = payload.oneOf([false, true], 0);
      const code = payload.u32();
      const inRange = kind === 'exited' ? code <= 255 : code >= 1 && code <= 64;
      if (!inRange) throw bad('an exit code or signal is out of range');
      const [stdoutLength, stderrLength] = [payload.size(), payload.size()];
      const [resultLength, artifactsLength, artifactFiles] = [payload.size(), payload.size(), payload.u32()];
      if (artifactFiles > MAX_ARTIFACT_ENTRIES) throw bad('a count of files is out of range');
      return {
        type: 'EXIT',
        kind,
        oom,
        code,
        stdoutLength,
        stderrLength,
        resultLength,
        artifactsLength,
        artifactFiles,
        cpuUs: payload.size(),
        memoryPeakBytes: payload.size(),
        refused: payload.oneOf([null, ...REFUSED], 0),
        message: payload.text(0, MAX_FAULT_MESSAGE_BYTES),
      };
    }
    case GUEST_TYPE.PONG:
      return { type: 'PONG', token: payload.u64() };
    case GUEST_TYPE.STDIN_ACK:
      return { type: 'STDIN_ACK', offset: payload.size() };
    case GUEST_TYPE.FAULT:
      return {
        type: 'FAULT',
        stage: payload.oneOf(FAULT_STAGES, 1),
        errno: payload.u32(),
        message: payload.text(0, MAX_FAULT_MESSAGE_BYTES),
      };
    default:
      throw new GuestProtocolError('unknown_type', `frame type ${type} is unknown`);
  }
}

const LONGEST: Record<Direction, (type: number) => number> = {
  host: (type) => (type === HOST_TYPE.TASK ? MAX_TASK_FRAME_BYTES : MAX_GUEST_FRAME_BYTES),
  guest: () => MAX_GUEST_FRAME_BYTES,
};

/** Length and type: what says how long a frame is, and whether it may be. */
const FRAME_HEADER_BYTES = 5;

/**
 * Cuts a byte stream into frames. It holds at most one frame's bytes, and refuses a frame by its length and type before it holds the rest. In however
 * many pieces a frame comes, each of its bytes is copied a few times at most.
 * After an error it must not be used again.
 */
class FrameDecoder<Frame> {
  readonly #direction: Direction;
  readonly #read: (type: number, payload: PayloadReader) => Frame;
  /** Begins with the bytes of a frame that is not whole; it has room for more. */
  #held: Uint8Array = new Uint8Array(0);
  #heldBytes = 0;
  /** So many must be held before there is more to read: a header, or a whole frame. */
  #wantedBytes = FRAME_HEADER_BYTES;

  constructor(direction: Direction, read: (type: number, payload: PayloadReader) => Frame) {
    this.#direction = direction;
    this.#read = read;
  }

  /**
   * The frames that `bytes` complete, in order.
   *
   * @throws GuestProtocolError
   */
  *push(bytes: Uint8Array): Generator<Frame> {
    const input = this.#withHeld(bytes);
    if (input === null) return;
    let at = 0;
    this.#wantedBytes = FRAME_HEADER_BYTES;
    while (input.length - at >= FRAME_HEADER_BYTES) {
      const view = new DataView(input.buffer, input.byteOffset + at, FRAME_HEADER_BYTES);
      const length = view.getUint32(0, true);
      const type = view.getUint8(4);
      if (length === 0) throw new GuestProtocolError('empty', 'a frame has no type');
      if (length > LONGEST[this.#direction](type)) {
        throw new GuestProtocolError('too_long', `a frame of type ${type} is ${length} bytes long`);
      }
      if (input.length - at < 4 + length) {
        this.#wantedBytes = 4 + length;
        break;
      }
      const payload = new PayloadReader(input.subarray(at + FRAME_HEADER_BYTES, at + 4 + length));
      const frame = this.#read(type, payload);
      payload.end();
      at += 4 + length;
      yield frame;
    }
    this.#hold(input.subarray(at));
  }

  /** What was held, and these; null while there is nothing to be read of it. */
  #withHeld(bytes: Uint8Array): Uint8Array | null {
    if (this.#heldBytes === 0) return bytes;
    this.#hold(bytes);
    if (this.#heldBytes < this.#wantedBytes) return null;
    const input = this.#held.subarray(0, this.#heldBytes);
    // The frames look into it.
    this.#held = new Uint8Array(0);
    this.#heldBytes = 0;
    return input;
  }

  #hold(bytes: Uint8Array): void {
    const neededBytes = this.#heldBytes + bytes.length;
    if (neededBytes > this.#held.length) {
      const grown = new Uint8Array(Math.max(neededBytes, 2 * this.#held.length));
      grown.set(this.#held.subarray(0, this.#heldBytes));
      this.#held = grown;
    }
    this.#held.set(bytes, this.#heldBytes);
    this.#heldBytes = neededBytes;
  }
}

export type HostFrameDecoder = FrameDecoder<HostFrame>;
export type GuestFrameDecoder = FrameDecoder<GuestFrame>;

/** Reads what a host sends (for tests and doubles of the agent). */
export const hostFrameDecoder = (): HostFrameDecoder => new FrameDecoder('host', readHostPayload);
/** Reads what a guest sends. */
export const guestFrameDecoder = (): GuestFrameDecoder => new FrameDecoder('guest', readGuestPayload);
