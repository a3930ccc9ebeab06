import { type AttemptEnded, ofStreams, type WorkerMessage } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { AttemptOutput } from '../src/execution/attempt-output.ts';
import { Outbox } from '../src/session/outbox.ts';
import { eventually } from './support/workspace.ts';

const attemptId = 'at_01m8515c5dec3ssmk0fssmppb1';
const ACCEPTED: WorkerMessage = { type: 'AttemptAccepted', attemptId, driver: 'fake', isolation: 'container' };
const STARTED: WorkerMessage = { type: 'AttemptStarted', attemptId, agoMs: 0 };
const BEAT: WorkerMessage = { type: 'WorkerHeartbeat', sequence: 1, attempts: [] };
const ENDED: AttemptEnded = {
  type: 'AttemptEnded',
  attemptId,
  outcome: { kind: 'exited', code: 0 },
  ...ofStreams(() => ({ bytes: 0, sha256: `sha256:${'0'.repeat(64)}`, truncated: false })),
  artifactFiles: 0,
  usage: { host: null, guest: null },
  message: null,
  signature: 'A'.repeat(86),
};

describe('what a session sends', () => {
  let sent: { readonly what: string; readonly turn: number }[];
  let outbox: Outbox;
  let output: AttemptOutput;
  let turn: number;
  let turns: NodeJS.Immediate;
  beforeEach(() => {
    sent = [];
    turn = 0;
    const count = () => {
      turn += 1;
      turns = setImmediate(count);
    };
    count();
    const what = (data: string | Uint8Array) =>
      typeof data === 'string' ? (JSON.parse(data) as { type: string }).type : 'output';
    outbox = new Outbox({
      bufferedAmount: 0,
      send: (data) => sent.push({ what: what(data), turn }),
      flush: () => undefined,
    });
    output = new AttemptOutput(
      1000,
      () => outbox.wake(1),
      () => undefined,
    );
  });
  afterEach(() => {
    clearImmediate(turns);
    outbox.close();
  });
  const order = () => sent.map(({ what }) => what);

  test('a function that ends at once, all facts about it go together', async (t) => {
    // However slow this machine is, the moment is not over.
    t.mock.timers.enable({ apis: ['setTimeout'] });
    outbox.add(1, output, ACCEPTED, false);
    outbox.tell(1, STARTED);
    outbox.finish(1, ENDED);
    while (sent.length < 3) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(order(), ['AttemptAccepted', 'AttemptStarted', 'AttemptEnded']);
    assert.equal(new Set(sent.map(({ turn: at }) => at)).size, 1);
  });

  test('output, it goes at once, behind the facts before it', async () => {
    outbox.add(1, output, ACCEPTED, false);
    outbox.tell(1, STARTED);
    output.push('stdout', Buffer.from('hello'));
    await eventually('the output is sent', () => sent.length === 3);
    assert.deepEqual(order(), ['AttemptAccepted', 'AttemptStarted', 'output']);
    outbox.finish(1, ENDED);
    await eventually('the end is sent', () => sent.length === 4);
  });

  test('one that came later than another, it waits as long', (t) => {
    let nowMs = 0;
    t.mock.method(performance, 'now', () => nowMs);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const pass = (ms: number) => {
      nowMs += ms;
      t.mock.timers.tick(ms);
    };
    outbox.add(1, output, ACCEPTED, false);
    pass(40);
    outbox.add(2, output, ACCEPTED, false);
    pass(10);
    assert.equal(sent.length, 1);
    pass(39);
    assert.equal(sent.length, 1);
    pass(1);
    assert.equal(sent.length, 2);
  });

  test('a function that goes on, its acceptance waits for a moment only', async () => {
    outbox.add(1, output, ACCEPTED, false);
    assert.deepEqual(order(), []);
    await eventually('the acceptance is sent', () => sent.length === 1);
    outbox.tell(1, STARTED);
    assert.deepEqual(order(), ['AttemptAccepted', 'AttemptStarted']);
  });

  test('a function that waits for its acceptance to be acknowledged, it is not kept waiting', () => {
    outbox.add(1, output, ACCEPTED, true);
    assert.deepEqual(order(), ['AttemptAccepted']);
  });

  test('a beat that names an attempt, what is known of it goes first', () => {
    outbox.add(1, output, ACCEPTED, false);
    outbox.send(BEAT);
    assert.deepEqual(order(), ['AttemptAccepted', 'WorkerHeartbeat']);
  });

  test('an attempt that is taken back, what waits of it is said all the same', () => {
    outbox.add(1, output, ACCEPTED, false);
    outbox.remove(1);
    assert.deepEqual(order(), ['AttemptAccepted']);
  });
});
