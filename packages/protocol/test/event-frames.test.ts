import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  encodeEventHead,
  EventFrameDecoder,
  IDLE_FRAME,
  MAX_EVENT_HEAD_BYTES,
  MAX_EVENT_PAYLOAD_BYTES,
} from '../src/index.ts';

/** Neither valid UTF-8 nor without line ends. */
const OUTPUT = Buffer.from([0xff, 0x00, 0x0a, 0xc3, 0x28, 0x0d, 0x0a]);
const OUTPUT_HEAD = { event: 'output', id: 'b', data: { stream: 'stdout', offset: 5 } };
const EVENTS = [
  { head: { event: 'execution', id: 'a', data: { name: 'ä "quoted"\n' } }, payload: Buffer.alloc(0) },
  { head: OUTPUT_HEAD, payload: OUTPUT },
  { head: { event: 'end', id: 'c', data: {} }, payload: Buffer.alloc(0) },
];
const WIRE = Buffer.concat([
  ...EVENTS.flatMap(({ head, payload }) => [IDLE_FRAME, encodeEventHead(head, payload.length), payload]),
  IDLE_FRAME,
]);

/** What comes of pieces of the wire, as told by one decoder. */
function decoded(...pieces: readonly Uint8Array[]) {
  const decoder = new EventFrameDecoder();
  return pieces
    .flatMap((piece) => [...decoder.push(piece)])
    .map(({ head, payload }) => ({ head: JSON.parse(head) as unknown, payload: Buffer.concat(payload) }));
}

test('frames that are cut anywhere, in two pieces or in single bytes, are the same frames', () => {
  assert.deepEqual(decoded(WIRE), EVENTS);
  for (let at = 0; at <= WIRE.length; at += 1) {
    assert.deepEqual(decoded(WIRE.subarray(0, at), WIRE.subarray(at)), EVENTS, `cut at ${at}`);
  }
  assert.deepEqual(decoded(...Array.from(WIRE, (byte) => Uint8Array.of(byte))), EVENTS);
});

test('a payload, is given as views of what came, and only once all of it is there', () => {
  const decoder = new EventFrameDecoder();
  const head = encodeEventHead(OUTPUT_HEAD, OUTPUT.length);
  const first = Buffer.concat([head, OUTPUT.subarray(0, 3)]);
  const second = Buffer.concat([OUTPUT.subarray(3), head]);
  assert.deepEqual([...decoder.push(first)], []);
  const [frame, ...more] = [...decoder.push(second)];
  assert.equal(more.length, 0);
  assert.deepEqual(
    frame!.payload.map(({ buffer, length }) => [buffer, length]),
    [
      [first.buffer, 3],
      [second.buffer, 4],
    ],
  );
});

test('a frame that is too long, is refused by its lengths', () => {
  for (const [headBytes, payloadBytes, message] of [
    [MAX_EVENT_HEAD_BYTES + 1, 0, /the head of an event is 16777217 bytes long/],
    [2, MAX_EVENT_PAYLOAD_BYTES + 1, /the payload of an event is 1048577 bytes long/],
  ] as const) {
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32LE(headBytes, 0);
    lengths.writeUInt32LE(payloadBytes, 4);
    assert.throws(() => [...new EventFrameDecoder().push(lengths)], { code: 'internal', message });
  }
});
