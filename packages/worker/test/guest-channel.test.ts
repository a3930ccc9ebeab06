import {
  encodeGuestFrame,
  type GuestFrame,
  type HostFrame,
  hostFrameDecoder,
  STDIN_WINDOW_BYTES,
  STREAM_WINDOW_BYTES,
} from '@cocore/protocol';
import assert from 'node:assert/strict';
import { type Duplex, duplexPair } from 'node:stream';
import { describe, test } from 'node:test';
import { type ChannelFailure, GuestChannel } from '../src/guest/channel.ts';
import { stdinOfBytes } from '../src/guest/stdin.ts';
import { eventually } from './support/workspace.ts';

/** A conversation with a guest that is written frame by frame. */
function conversation() {
  const [host, guest] = duplexPair();
  const log: string[] = [];
  const failures: ChannelFailure[] = [];
  const received: HostFrame[] = [];
  const channel = new GuestChannel(host, {
    started: () => log.push('started'),
    output: (stream, data) => log.push(`${stream} ${data.length}`),
    ended: (frame) => log.push(frame.type),
    failed: (failure) => failures.push(failure),
  });
  const read = () => {
    const decoder = hostFrameDecoder();
    guest.on('data', (bytes: Buffer) => received.push(...decoder.push(bytes)));
  };
  const say = (frame: GuestFrame) => void guest.write(encodeGuestFrame(frame));
  return { channel, host, guest, log, failures, received, read, say };
}

type Conversation = ReturnType<typeof conversation>;

/** Up to the greeting. */
async function greeted(): Promise<Conversation> {
  const talk = conversation();
  talk.read();
  const hello = talk.channel.hello();
  await eventually('HELLO', () => talk.received.length === 1);
  const [first] = talk.received;
  assert.ok(first?.type === 'HELLO');
  talk.say({ type: 'HELLO', version: 2, nonce: first.nonce, agentVersion: 'test' });
  assert.equal(await hello, 'test');
  return talk;
}

async function running(stdin = new Uint8Array(0)): Promise<Conversation> {
  const talk = await greeted();
  talk.channel.start(Buffer.from('{}'), stdinOfBytes(stdin));
  talk.say({ type: 'STARTED', monotonicNs: 1n });
  await eventually('STARTED', () => talk.log.includes('started'));
  return talk;
}

const EXIT = {
  type: 'EXIT',
  kind: 'exited',
  oom: false,
  code: 0,
  resultLength: 0,
  artifactsLength: 0,
  artifactFiles: 0,
  cpuUs: 0,
  memoryPeakBytes: 0,
  refused: null,
  message: '',
} as const;
const raw =
  (...bytes: number[]) =>
  (talk: Conversation) =>
    void talk.guest.write(Buffer.from(bytes));
const frame = (what: GuestFrame) => (talk: Conversation) => talk.say(what);
const data = (count: number) => new Uint8Array(count);

describe('a hostile guest', () => {
  const BREAKS: readonly (readonly [string, (talk: Conversation) => void])[] = [
    ['an empty frame', raw(0, 0, 0, 0, 0)],
    ['an unknown type', raw(1, 0, 0, 0, 0x42)],
    ['a frame of the host’s', raw(1, 0, 0, 0, 0x09)],
    ['a length of 4 GiB', raw(0xff, 0xff, 0xff, 0xff, 0x83)],
    ['a payload that is too short', raw(5, 0, 0, 0, 0x86, 1, 2, 3, 4)],
    ['a second HELLO', frame({ type: 'HELLO', version: 2, nonce: data(16), agentVersion: 'x' })],
    ['a second STARTED', frame({ type: 'STARTED', monotonicNs: 2n })],
    ['output at a wrong offset', frame({ type: 'STDOUT', offset: 1, data: data(1) })],
    ['an offset beyond all', frame({ type: 'STDERR', offset: Number.MAX_SAFE_INTEGER, data: data(1) })],
    ['an acknowledgement of input that was not sent', frame({ type: 'STDIN_ACK', offset: 1 })],
    ['an answer to no ping', frame({ type: 'PONG', token: 7n })],
    ['an end with other lengths', frame({ ...EXIT, stdoutLength: 5, stderrLength: 0 })],
    [
      'output beyond its credit',
      (talk) => {
        for (let offset = 0; offset <= STREAM_WINDOW_BYTES; offset += 65_536) {
          talk.say({ type: 'STDOUT', offset, data: data(65_536) });
        }
      },
    ],
  ];
  for (const [name, act] of BREAKS) {
    test(`${name}, the conversation ends as a breach of the protocol`, async () => {
      const talk = await running();
      act(talk);
      await eventually('a failure', () => talk.failures.length > 0);
      assert.equal(talk.failures[0]?.kind, 'protocol');
      talk.say({ type: 'STDOUT', offset: 0, data: data(1) });
      talk.say({ ...EXIT, stdoutLength: 0, stderrLength: 0 });
      await new Promise((resolve) => setTimeout(resolve, 10));
      assert.equal(talk.failures.length, 1);
      assert.ok(!talk.log.includes('EXIT'), 'nothing is heard after a breach');
    });
  }

  for (const [name, act] of [
    ['output', frame({ type: 'STDOUT', offset: 0, data: data(1) })],
    ['an end', frame({ ...EXIT, stdoutLength: 0, stderrLength: 0 })],
    ['a start', frame({ type: 'STARTED', monotonicNs: 1n })],
  ] as const) {
    test(`${name} before the task, the conversation ends as a breach`, async () => {
      const talk = await greeted();
      act(talk);
      await eventually('a failure', () => talk.failures.length > 0);
      assert.equal(talk.failures[0]?.kind, 'protocol');
    });
  }

  test('a HELLO with another nonce, the greeting is refused', async () => {
    const talk = conversation();
    const hello = talk.channel.hello();
    talk.say({ type: 'HELLO', version: 2, nonce: data(16), agentVersion: 'replay' });
    await assert.rejects(hello, /another nonce/);
  });

  test('a stream that ends before the report, it is told once', async () => {
    const talk = await running();
    talk.guest.destroy();
    talk.host.destroy();
    await eventually('a failure', () => talk.failures.length > 0);
    assert.deepEqual(
      talk.failures.map(({ kind }) => kind),
      ['closed'],
    );
  });

  test('a guest that never reads, what is held for it stays bounded', async () => {
    const talk = await running(new Uint8Array(4_000_000));
    talk.guest.pause();
    const { host, channel } = talk;
    for (let offset = 0; offset < 20_000; offset += 1) {
      talk.say({ type: 'STDOUT', offset, data: data(1) });
      if (offset % 100 === 0) await new Promise(setImmediate);
      channel.acknowledge('stdout', offset);
      channel.ping();
    }
    assert.ok(bytesHeld(host) < STDIN_WINDOW_BYTES + 256 * 1024, `${bytesHeld(host)} bytes`);
    assert.deepEqual(talk.failures, []);
  });

  const bytesHeld = (stream: Duplex) => stream.writableLength;

  test('a guest that never answers, its age grows', async () => {
    let now = 0;
    const [host, guest] = duplexPair();
    const channel = new GuestChannel(host, {} as never, () => now);
    const frames: HostFrame[] = [];
    const decoder = hostFrameDecoder();
    guest.on('data', (bytes: Buffer) => frames.push(...decoder.push(bytes)));
    const hello = channel.hello();
    await eventually('HELLO', () => frames.length > 0);
    assert.equal(channel.ageMs(), null);
    assert.ok(frames[0]?.type === 'HELLO');
    guest.write(encodeGuestFrame({ type: 'HELLO', version: 2, nonce: frames[0].nonce, agentVersion: 'x' }));
    await hello;
    now = 31_000;
    channel.ping();
    assert.equal(channel.ageMs(), 31_000);
    guest.write(encodeGuestFrame({ type: 'PONG', token: 1n }));
    await eventually('PONG', () => channel.ageMs() === 0);
  });
});

describe('a guest that keeps to the contract', () => {
  test('input beyond the window, it is sent as it is acknowledged, and ends with its length', async () => {
    const talk = await running(new Uint8Array(600_000));
    const sent = () => talk.received.reduce((sum, one) => sum + (one.type === 'STDIN' ? one.data.length : 0), 0);
    await eventually('a window', () => sent() === STDIN_WINDOW_BYTES);
    talk.say({ type: 'STDIN_ACK', offset: STDIN_WINDOW_BYTES });
    await eventually('two windows', () => sent() === 2 * STDIN_WINDOW_BYTES);
    assert.ok(!talk.received.some(({ type }) => type === 'STDIN_END'));
    talk.say({ type: 'STDIN_ACK', offset: 2 * STDIN_WINDOW_BYTES });
    await eventually('the end', () => talk.received.some((one) => one.type === 'STDIN_END' && one.length === 600_000));
  });

  test('frames in pieces of one byte, they are understood', async () => {
    const talk = await running();
    for (const byte of encodeGuestFrame({ type: 'STDERR', offset: 0, data: Buffer.from('abc') })) {
      talk.guest.write(Buffer.from([byte]));
    }
    await eventually('output', () => talk.log.includes('stderr 3'));
  });

  test('a seed, it comes before the task and carries entropy and the time', async () => {
    const talk = await running();
    const kinds = talk.received.map(({ type }) => type);
    assert.deepEqual(kinds.slice(0, 3), ['HELLO', 'SEED', 'TASK']);
    const seed = talk.received[1];
    assert.ok(seed?.type === 'SEED' && seed.entropy.length >= 32);
    assert.ok(Math.abs(Number(seed.epochNs / 1_000_000n) - Date.now()) < 5_000);
  });
});
