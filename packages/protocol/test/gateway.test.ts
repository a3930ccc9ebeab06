import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  CocoreError,
  decodeOutputFrame,
  encodeOutputFrame,
  endStatement,
  makeId,
  MAX_OUTPUT_FRAME_DATA_BYTES,
  parseServerMessage,
  parseWorkerMessage,
} from '../src/index.ts';

const attemptId = makeId('attempt', 1, new Uint8Array(10));
const violation = (error: unknown) => error instanceof CocoreError && error.code === 'protocol_violation';

describe('gateway messages', () => {
  test('a message of the contract, is read as it was written', () => {
    const message = { type: 'AttemptAccepted', attemptId, driver: 'qemu', isolation: 'emulated' } as const;
    assert.deepEqual(parseWorkerMessage(JSON.stringify(message)), message);
  });

  const wrong: [string, string][] = [
    ['not JSON', '{'],
    ['no object', '7'],
    ['a type that is no text', '{"type":7}'],
    ['a missing field', JSON.stringify({ type: 'AttemptRefused', attemptId })],
    ['an id of another kind', JSON.stringify({ type: 'AttemptRefused', attemptId: 'ex_1', cause: 'no_capacity' })],
    ['a message of the other side', JSON.stringify({ type: 'AttemptCancel', attemptId })],
  ];
  for (const [what, text] of wrong) {
    test(`${what}, is a protocol violation`, () => assert.throws(() => parseWorkerMessage(text), violation));
  }

  test('a message of the worker, is not one of the server', () => {
    const text = JSON.stringify({ type: 'WorkerHeartbeat', sequence: 1, attempts: [] });
    assert.equal(parseWorkerMessage(text)?.type, 'WorkerHeartbeat');
    assert.throws(() => parseServerMessage(text), violation);
  });

  test('fields and messages of a later release, are ignored', () => {
    const refused = { type: 'AttemptRefused', attemptId, cause: 'no_capacity' } as const;
    assert.deepEqual(parseWorkerMessage(JSON.stringify({ ...refused, more: { deep: 1 } })), refused);
    assert.equal(parseWorkerMessage('{"type":"AttemptPondered"}'), null);
    assert.equal(parseServerMessage('{"type":"WorkerPraised","why":1}'), null);
  });
});

describe('output frames', () => {
  const frame = { channel: 7, stream: 'stderr', offset: 2 ** 33, data: Uint8Array.of(0, 1, 255) } as const;

  test('a frame, is read as it was written', () =>
    assert.deepEqual(decodeOutputFrame(encodeOutputFrame(frame)), frame));

  test('a frame inside a larger buffer, is read from its own place', () => {
    const whole = new Uint8Array(100);
    const encoded = encodeOutputFrame(frame);
    whole.set(encoded, 11);
    assert.deepEqual(decodeOutputFrame(whole.subarray(11, 11 + encoded.length)), frame);
  });

  const damage: [string, (bytes: Uint8Array) => Uint8Array][] = [
    ['nothing but a header', (bytes) => bytes.subarray(0, 16)],
    ['less than a header', (bytes) => bytes.subarray(0, 3)],
    ['another version', (bytes) => bytes.with(0, 2)],
    ['another type', (bytes) => bytes.with(1, 2)],
    ['an unknown stream', (bytes) => bytes.with(2, 5)],
    ['a padding that is not zero', (bytes) => bytes.with(3, 1)],
    ['an offset beyond 2^53', (bytes) => bytes.with(15, 1)],
    ['too much data', () => encodeOutputFrame({ ...frame, data: new Uint8Array(MAX_OUTPUT_FRAME_DATA_BYTES + 1) })],
  ];
  for (const [what, spoil] of damage) {
    test(`${what}, is a protocol violation`, () =>
      assert.throws(() => decodeOutputFrame(spoil(encodeOutputFrame(frame))), violation));
  }
});

test('a statement of an end, changes with every fact in it', () => {
  const stream = { bytes: 3, sha256: `sha256:${'0'.repeat(64)}`, truncated: false } as const;
  const meter = { cpuMs: 1, memoryPeakBytes: 2, wallMs: 3 };
  const base = {
    attemptId,
    outcome: { kind: 'exited', code: 0 } as const,
    stdout: stream,
    stderr: stream,
    result: stream,
    artifacts: stream,
    artifactFiles: 1,
    usage: { host: meter, guest: null },
  };
  const statements = [
    base,
    { ...base, attemptId: makeId('attempt', 2, new Uint8Array(10)) },
    { ...base, outcome: { kind: 'exited', code: 1 } as const },
    { ...base, outcome: { kind: 'signaled', signal: 1 } as const },
    { ...base, stdout: { ...stream, bytes: 4 } },
    { ...base, stderr: { ...stream, truncated: true } },
    { ...base, result: { ...stream, bytes: 4 } },
    { ...base, artifacts: { ...stream, bytes: 4 } },
    { ...base, artifactFiles: 2 },
    { ...base, usage: { host: { ...meter, cpuMs: 2 }, guest: null } },
    { ...base, usage: { host: null, guest: meter } },
  ].map((ended) => endStatement(ended));
  assert.equal(new Set(statements).size, statements.length);
});
