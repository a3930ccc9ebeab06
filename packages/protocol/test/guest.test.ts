import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { z } from 'zod';
import {
  encodeGuestFrame,
  encodeHostFrame,
  fromHex,
  type GuestFrame,
  guestFrameDecoder,
  GuestProtocolError,
  type HostFrame,
  hostFrameDecoder,
  MAX_GUEST_FRAME_BYTES,
  toHex,
} from '../src/index.ts';

const bytes = (...values: number[]) => Uint8Array.from(values);
const nonce = Uint8Array.from({ length: 16 }, (_, at) => at);

const HOST: HostFrame[] = [
  { type: 'HELLO', version: 2, nonce },
  { type: 'TASK', artifactsLimit: 64 * 2 ** 20, config: new TextEncoder().encode('{}') },
  { type: 'STDIN', offset: 2 ** 40, data: bytes(0, 255) },
  { type: 'STDIN_END', length: 7 },
  { type: 'SIGNAL', signal: 15 },
  { type: 'SEED', epochNs: 1_790_000_000_000_000_000n, entropy: new Uint8Array(32).fill(7) },
  { type: 'PING', token: 0xffff_ffff_ffff_ffffn },
  { type: 'ACK', stream: 'stderr', offset: 65_536 },
  { type: 'ACK', stream: 'artifacts', offset: 0 },
  { type: 'POWEROFF' },
  { type: 'FILE', user: 1000, group: 100, size: 2 ** 26, path: '/work/é' },
  { type: 'FILE_DATA', data: bytes(1, 2) },
];

const GUEST: GuestFrame[] = [
  { type: 'HELLO', version: 2, nonce, agentVersion: '0.1.0' },
  { type: 'STARTED', monotonicNs: 123n },
  { type: 'STDOUT', offset: 0, data: new Uint8Array(65_536).fill(9) },
  { type: 'STDERR', offset: 3, data: bytes(1) },
  { type: 'RESULT', offset: 0, data: bytes(123, 125) },
  { type: 'ARTIFACTS', offset: 2 ** 26, data: new Uint8Array(512) },
  {
    type: 'EXIT',
    kind: 'signaled',
    oom: true,
    code: 9,
    stdoutLength: 10,
    stderrLength: 0,
    resultLength: 4,
    artifactsLength: 0,
    artifactFiles: 0,
    cpuUs: 1,
    memoryPeakBytes: 2,
    refused: 'artifacts',
    message: 'too many – é',
  },
  { type: 'PONG', token: 1n },
  { type: 'STDIN_ACK', offset: 5 },
  { type: 'FAULT', stage: 'start', errno: 2, message: 'not found – é' },
];

function concat(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

describe('guest frames', () => {
  test('every frame of the host, comes back as it was written, whole or byte by byte', () => {
    const stream = concat(HOST.map(encodeHostFrame));
    assert.deepEqual([...hostFrameDecoder().push(stream)], HOST);
    const decoder = hostFrameDecoder();
    const slow: HostFrame[] = [];
    for (const byte of stream) slow.push(...decoder.push(bytes(byte)));
    assert.deepEqual(slow, HOST);
  });

  test('every frame of the guest, comes back as it was written, in pieces of any size', () => {
    const stream = concat(GUEST.map(encodeGuestFrame));
    for (const size of [1, 3, 7, 4096, stream.length]) {
      const decoder = guestFrameDecoder();
      const frames: GuestFrame[] = [];
      for (let at = 0; at < stream.length; at += size) {
        for (const frame of decoder.push(stream.subarray(at, at + size))) frames.push(frame);
      }
      assert.deepEqual(frames, GUEST);
    }
  });

  const refused: [string, Uint8Array, string][] = [
    ['no type', bytes(0, 0, 0, 0, 0), 'empty'],
    ['an unknown type', bytes(1, 0, 0, 0, 0x99), 'unknown_type'],
    ['a type of the host', encodeHostFrame({ type: 'POWEROFF' }), 'unknown_type'],
    ['a payload too short', bytes(2, 0, 0, 0, 0x86, 1), 'bad_payload'],
    ['a payload too long', concat([bytes(10, 0, 0, 0, 0x86), new Uint8Array(9)]), 'bad_payload'],
    ['data of no bytes', concat([bytes(9, 0, 0, 0, 0x83), new Uint8Array(8)]), 'bad_payload'],
    ['an offset beyond 2^53', concat([bytes(9, 0, 0, 0, 0x87), new Uint8Array(8).fill(0xff)]), 'bad_payload'],
    ['an exit of signal 65', exitWith(1, 65), 'bad_payload'],
    ['an exit of kind 2', exitWith(2, 0), 'bad_payload'],
    ['a message that is not UTF-8', bytes(7, 0, 0, 0, 0x88, 1, 0, 0, 0, 0, 0xff), 'bad_payload'],
  ];
  for (const [what, stream, error] of refused) {
    test(`${what}, is refused as ${error}`, () => {
      assert.throws(
        () => [...guestFrameDecoder().push(stream)],
        (thrown) => thrown instanceof GuestProtocolError && thrown.error === error,
      );
    });
  }

  test('a frame that announces too many bytes, is refused before they are held', () => {
    const header = bytes(0, 0, 0, 0, 0x83);
    new DataView(header.buffer).setUint32(0, MAX_GUEST_FRAME_BYTES + 1, true);
    assert.throws(
      () => [...guestFrameDecoder().push(header)],
      (thrown) => thrown instanceof GuestProtocolError && thrown.error === 'too_long',
    );
  });
});

function exitWith(kind: number, code: number): Uint8Array {
  const frame = encodeGuestFrame({
    type: 'EXIT',
    kind: 'exited',
    oom: false,
    code: 0,
    stdoutLength: 0,
    stderrLength: 0,
    resultLength: 0,
    artifactsLength: 0,
    artifactFiles: 0,
    cpuUs: 0,
    memoryPeakBytes: 0,
    refused: null,
    message: '',
  });
  frame[5] = kind;
  new DataView(frame.buffer).setUint32(7, code, true);
  return frame;
}

// --- The golden files, which the agent's C tests read too

const goldenDir = new URL('../../../guest/golden/', import.meta.url);
const GoldenFile = z.object({
  file: z.string(),
  direction: z.enum(['host', 'guest']),
  valid: z.boolean(),
  error: z.string().optional(),
  fields: z.record(z.string(), z.unknown()).optional(),
});

/** Fields as the index writes them: bytes in hexadecimal, 64-bit numbers as decimal strings. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return toHex(value);
  if (typeof value === 'bigint' || typeof value === 'number') return String(value);
  return value;
}

describe('golden frames', () => {
  const index = z.array(GoldenFile).parse(JSON.parse(readFileSync(new URL('index.json', goldenDir), 'utf8')));

  test('every golden file, is in the index', () => {
    const files = readdirSync(goldenDir).filter((name) => name.endsWith('.bin'));
    assert.deepEqual(files.sort(), index.map(({ file }) => file).sort());
  });

  for (const { file, direction, valid, error, fields } of index) {
    test(`${file}, is read as its index says`, () => {
      const path = new URL(file, goldenDir);
      assert.ok(existsSync(path));
      const stream = new Uint8Array(readFileSync(path));
      const read = () => [...(direction === 'host' ? hostFrameDecoder() : guestFrameDecoder()).push(stream)];
      if (!valid) {
        assert.throws(read, (thrown) => thrown instanceof GuestProtocolError && thrown.error === error);
        return;
      }
      const frames: (HostFrame | GuestFrame)[] = read();
      assert.equal(frames.length, 1);
      const decoded = Object.fromEntries(Object.entries(frames[0]!).map(([key, value]) => [key, plain(value)]));
      assert.deepEqual(
        decoded,
        Object.fromEntries(Object.entries(fields ?? {}).map(([key, value]) => [key, plain(value)])),
      );
      const again =
        direction === 'host' ? encodeHostFrame(frames[0] as HostFrame) : encodeGuestFrame(frames[0] as GuestFrame);
      assert.deepEqual(again, stream);
    });
  }
});

test('hexadecimal, is read back and nothing else is read', () => {
  assert.deepEqual(fromHex('00ff10'), bytes(0, 255, 16));
  for (const wrong of ['0', 'zz', '0x00']) assert.throws(() => fromHex(wrong), RangeError);
});
