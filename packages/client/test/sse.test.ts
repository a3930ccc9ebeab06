import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ServerSentEvent, SseParser } from '../src/sse.ts';

const STREAM =
  ': hello\n\nevent: output\nid: 1\ndata: {"a":1}\n\nid: 2\r\ndata: one\r\ndata:two\r\n\r\nevent: end\ndata: cut off';
const EVENTS: ServerSentEvent[] = [
  { event: 'output', id: '1', data: '{"a":1}' },
  { event: 'message', id: '2', data: 'one\ntwo' },
];

test('a stream in pieces of any size, gives the same events and never one that was cut off', () => {
  for (let size = 1; size <= STREAM.length; size += 1) {
    const parser = new SseParser();
    const events: ServerSentEvent[] = [];
    for (let at = 0; at < STREAM.length; at += size) events.push(...parser.push(STREAM.slice(at, at + size)));
    assert.deepEqual(events, EVENTS, `pieces of ${size}`);
  }
});
