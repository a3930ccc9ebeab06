import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import type { ServerMessage, TaskSpec } from '@cocore/protocol';
import { type MessageSink, Outbox } from '../src/gateway/outbox.ts';

const MiB = 1024 * 1024;

/** A network that takes bytes when the test says so. */
class Sink implements MessageSink {
  readonly texts: string[] = [];
  bufferedAmount = 0;
  pings = 0;
  largestBuffered = 0;
  #message: Buffer[] = [];
  readonly #written: (() => void)[] = [];

  send(data: string | Buffer, { fin }: { fin: boolean }, written: (error?: Error | null) => void): void {
    this.#message.push(Buffer.from(data));
    if (fin) this.texts.push(Buffer.concat(this.#message.splice(0)).toString());
    this.bufferedAmount += data.length;
    this.largestBuffered = Math.max(this.largestBuffered, this.bufferedAmount);
    this.#written.push(() => {
      this.bufferedAmount -= data.length;
      written(null);
    });
  }

  ping(): void {
    this.pings += 1;
  }

  /** Takes what was written first. */
  take(times = 1): void {
    for (; times > 0; times -= 1) this.#written.shift()?.();
  }

  takeAll(): void {
    while (this.#written.length > 0) this.take();
  }

  get said(): string[] {
    return this.texts.map((text) => {
      const { type, attemptId, sequence } = JSON.parse(text) as Record<string, unknown>;
      return [type, attemptId ?? sequence].join(' ');
    });
  }
}

const assign = (attemptId: string, bytes: number): ServerMessage => ({
  type: 'AttemptAssign',
  attemptId,
  executionId: 'ex',
  channel: 1,
  task: { argv: ['é'.repeat(bytes / 2)] } as TaskSpec,
});
const ack = (sequence: number): ServerMessage => ({ type: 'HeartbeatAck', sequence });
const revoke = (attemptId: string): ServerMessage => ({ type: 'AttemptRevoke', attemptId, why: 'test' });

describe('what a session sends', () => {
  let sink: Sink;
  let outbox: Outbox;
  let left = 0;
  beforeEach(() => {
    left = 0;
    sink = new Sink();
    outbox = new Outbox(sink, () => (left += 1));
  });

  test('assignments that wait, all else goes before them, after the one that is begun', () => {
    for (const id of ['a', 'b', 'c']) outbox.send(assign(id, MiB));
    outbox.send(ack(1));
    outbox.send({ type: 'AttemptCancel', attemptId: 'x' });
    sink.takeAll();
    assert.deepEqual(sink.said, [
      'AttemptAssign a',
      'HeartbeatAck 1',
      'AttemptCancel x',
      'AttemptAssign b',
      'AttemptAssign c',
    ]);
  });

  test('an assignment that is taken back, neither is sent where it waits; behind it where it is begun', () => {
    const gone: string[] = [];
    for (const id of ['a', 'b', 'c']) outbox.send(assign(id, MiB), () => gone.push(id));
    outbox.send(revoke('a'));
    outbox.send(revoke('b'));
    assert.deepEqual(gone, ['b']);
    outbox.send(revoke('other'));
    sink.takeAll();
    assert.deepEqual(sink.said, ['AttemptAssign a', 'AttemptRevoke a', 'AttemptRevoke other', 'AttemptAssign c']);
    assert.deepEqual(gone, ['b', 'a', 'c']);
    assert.equal(outbox.unsentBytes, 0);
  });

  test('a long message, it arrives as it was, the socket holds little of it at a time, and it is heard on the way', () => {
    const message = assign('a', 8 * MiB);
    outbox.send(message);
    assert.ok(outbox.unsentBytes > 8 * MiB);
    const before = outbox.leftBytes;
    sink.take();
    assert.ok(outbox.leftBytes > before);
    assert.equal(left, 1);
    sink.takeAll();
    assert.equal(sink.texts[0], JSON.stringify(message));
    assert.ok(sink.pings >= 30, String(sink.pings));
    assert.ok(sink.largestBuffered <= 512 * 1024, String(sink.largestBuffered));
    assert.equal(outbox.leftBytes, Buffer.byteLength(sink.texts[0]));
  });

  test('a session that ends, nothing more is sent and nothing counts as sent', () => {
    let isSent = false;
    outbox.send(assign('a', MiB), () => (isSent = true));
    outbox.close();
    sink.takeAll();
    outbox.send(ack(1));
    assert.deepEqual([isSent, sink.texts], [false, []]);
  });
});
