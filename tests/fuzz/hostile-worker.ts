import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { encodeOutputFrame, endStatement, makeId, type Outcome, type WorkerMessage } from '@cocore/protocol';
import { Identity, ScriptedWorker } from '../../packages/control/test/support/scripted-worker.ts';
import { TestServer } from '../../packages/control/test/support/test-server.ts';
import { until } from '../../packages/control/test/support/until.ts';
import { Random } from '../faults/random.ts';
import { ErrorLog } from './error-log.ts';
import { WORKER_MESSAGES } from './examples.ts';
import { mutateBytes, mutateText, mutateValue, spell } from './mutate.ts';
import type { LiveTarget } from './target.ts';

/** What a hostile worker may be closed with: for what it said (4003: an end without its output), never for a fault of the server's own. */
const CLOSE_CODES = [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 4003];
/** Only the hostile worker has room for the one, and only the honest one the class for the other. */
const BAIT_MEMORY_MIB = 16_384;
const HONEST = { isolation: 'microvm', memoryMiB: 8192 } as const;
const EMPTY_SHA256 = `sha256:${createHash('sha256').digest('hex')}`;
/** Beyond what the server has warmed up with. */
const MAX_GROWTH_BYTES = 64 * 1024 * 1024;

/** The seed of what one worker says. */
interface Life {
  readonly seed: string;
  readonly frames: number;
}

/**
 * Workers that prove who they are, are given work, and then say anything: about their own attempt, about that of an honest worker beside them,
 * about none. What the honest one has under way meanwhile ends as it says.
 */
export async function hostileWorkerTarget(): Promise<LiveTarget<Life>> {
  await using scope = new AsyncDisposableStack();
  const log = new ErrorLog();
  const server = scope.use(await TestServer.start({ log: log.logger }));
  const honest = scope.use(await ScriptedWorker.connect(server, { capabilities: HONEST }));
  const beats = setInterval(() => honest.beat(1), 5000);
  scope.defer(() => clearInterval(beats));
  await server.deploy('honest', { isolation: 'microvm' });
  await server.deploy('bait', { memoryMiB: BAIT_MEMORY_MIB });
  let lives = 0;
  let warmBytes = Infinity;
  const held = scope.move();
  return {
    name: 'hostile-worker',
    corpus: [],
    make: (random) => ({ seed: String(random.int(0, 2 ** 31)), frames: random.int(1, 25) }),
    check: async (life) => {
      await live(server, honest, life);
      log.check();
      lives += 1;
      if (lives === 5) warmBytes = heldBytes();
    },
    finish: () => {
      const grownBytes = lives < 5 ? 0 : heldBytes() - warmBytes;
      const mostBytes = MAX_GROWTH_BYTES + 64 * 1024 * lives;
      assert.ok(grownBytes < mostBytes, `${lives} workers made it hold ${grownBytes} bytes more`);
      return Promise.resolve();
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function heldBytes(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

async function live(server: TestServer, honest: ScriptedWorker, { seed, frames }: Life): Promise<void> {
  const random = new Random(seed);
  const { id } = await server.run('honest');
  const assign = await honest.startNext();
  honest.output(assign.channel, 'stdout', 0, 'first ');
  await honest.next('OutputAck', ({ channel, offset }) => channel === assign.channel && offset === 6);

  const bait = await server.run('bait');
  const identity = new Identity();
  await using hostile = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  const own = await hostile.next('AttemptAssign');
  const facts = { own: own.attemptId, channel: own.channel, others: assign.attemptId, othersChannel: assign.channel };
  if (random.chance(0.7)) hostile.accept(own);
  if (random.chance(0.5)) hostile.started(own);
  for (let left = frames; left > 0 && hostile.socket.readyState === hostile.socket.OPEN; left -= 1) {
    hostile.socket.send(frame(random, identity, facts));
  }
  await heardOut(hostile);

  honest.output(assign.channel, 'stdout', 6, 'last');
  honest.end(assign, { kind: 'exited', code: 0 }, { stdout: 'first last' });
  const { state, output, ...rest } = await server.execution(id, '10s');
  assert.deepEqual([state, output.stdout.bytes], ['success', 10], JSON.stringify(rest));
  await honest.next('AttemptEndedAck', ({ attemptId }) => attemptId === assign.attemptId);
  honest.received.length = 0;

  // Its own answers whatever it said, and is not in the next one's way.
  assert.equal((await server.call('GET', `/v1/executions/${bait.id}`)).status, 200);
  assert.equal((await server.call('GET', '/v1/executions')).status, 200);
  assert.equal((await server.call('GET', '/v1/workers')).status, 200);
  const cancel = await server.call('POST', `/v1/executions/${bait.id}/cancel`, { body: { json: {} } });
  assert.ok(cancel.status < 300, JSON.stringify(cancel.body));
}

/** Until the server has read all of it, or has closed. */
async function heardOut(hostile: ScriptedWorker): Promise<void> {
  let isAnswered = false;
  hostile.socket.once('pong', () => (isAnswered = true));
  if (hostile.socket.readyState === hostile.socket.OPEN) hostile.socket.ping();
  void hostile.closed.then(({ code, reason }) => {
    isAnswered = true;
    closeCode = [code, reason];
  });
  let closeCode: [number, string] | null = null;
  await until('the hostile worker is heard out', () => isAnswered);
  const closed = closeCode as [number, string] | null;
  if (closed !== null) assert.ok(CLOSE_CODES.includes(closed[0]), `closed with ${closed.join(' ')}`);
}

interface Facts {
  readonly own: string;
  readonly channel: number;
  readonly others: string;
  readonly othersChannel: number;
}

/** One thing that it says: mostly what fits the contract, whether or not it is true, else damaged. */
function frame(random: Random, identity: Identity, facts: Facts): string | Uint8Array {
  const { own, channel, others, othersChannel } = facts;
  if (random.chance(0.3)) {
    const bytes = encodeOutputFrame({
      channel: random.chance(0.9) ? channel : random.pick([othersChannel, 0, 2 ** 32 - 1]),
      stream: random.pick(['stdout', 'stderr', 'result', 'artifacts'] as const),
      offset: random.chance(0.8) ? 0 : random.pick([1, 5, 6, 2 ** 40, Number.MAX_SAFE_INTEGER]),
      data: Buffer.from('x'.repeat(random.pick([1, 5, 65_536]))),
    });
    return random.chance(0.1) ? mutateBytes(random, bytes) : bytes;
  }
  const attemptId = random.pick([own, own, own, others, makeId('attempt', 5, new Uint8Array(10))]);
  const told = fitting(random, attemptId);
  const isDamaged = random.chance(0.2);
  const changed = isDamaged ? (mutateValue(random, told) as WorkerMessage) : told;
  const text = spell(random, signed(identity, changed));
  return isDamaged && random.chance(0.2) ? mutateText(random, text) : text;
}

const OUTCOMES: readonly Outcome[] = [
  { kind: 'exited', code: 0 },
  { kind: 'exited', code: 255 },
  { kind: 'raised', code: 1 },
  { kind: 'rejected', cause: 'result_invalid' },
  { kind: 'signaled', signal: 64 },
  { kind: 'oom' },
  { kind: 'timed_out', clock: 'prepare' },
  { kind: 'cancelled' },
  { kind: 'not_started', cause: 'image' },
  { kind: 'lost', cause: 'blob' },
  { kind: 'lost', cause: 'host_lost' },
];
const MOST = Number.MAX_SAFE_INTEGER;

/** A message that its schema takes, at its edges where it has some. */
function fitting(random: Random, attemptId: string): WorkerMessage {
  const duration = random.pick([0, 1, 1e15, 1e308, 5e-324]);
  const count = random.pick([0, 0, 1, 5, MOST]);
  const digest = `sha256:${random.pick(['0', 'e']).repeat(64)}`;
  const stream = { bytes: count, sha256: random.chance(0.7) ? EMPTY_SHA256 : digest, truncated: random.chance(0.2) };
  const reading = random.chance(0.3) ? null : { cpuMs: duration, memoryPeakBytes: count, wallMs: duration };
  const empty = { ...stream, bytes: 0 };
  switch (random.int(0, 7)) {
    case 0:
      return {
        type: 'AttemptAccepted',
        attemptId,
        driver: random.pick(['fake', '\ud800', '\0']),
        isolation: 'container',
      };
    case 1:
      return { type: 'AttemptRefused', attemptId, cause: random.pick(['no_capacity', 'stopping'] as const) };
    case 2:
      return { type: 'AttemptStarted', attemptId, agoMs: duration };
    case 3:
    case 4:
      return {
        type: 'AttemptEnded',
        attemptId,
        outcome: random.pick(OUTCOMES),
        message: random.pick([null, '\ud800\0', '\n'.repeat(1000)]),
        stdout: random.chance(0.7) ? empty : stream,
        stderr: empty,
        result: random.chance(0.8) ? empty : { ...stream, hashFrom: 1 },
        artifacts: random.chance(0.8) ? empty : stream,
        artifactFiles: random.pick([0, 1000]),
        usage: { host: reading, guest: reading },
        signature: 'A'.repeat(86),
        ...(random.chance(0.5) ? { final: true } : {}),
      };
    case 5: {
      const attempts = Array.from({ length: random.pick([0, 1, 2, 10_000]) }, () => ({ attemptId, agentAgeMs: count }));
      return { type: 'WorkerHeartbeat', sequence: count, attempts };
    }
    case 6: {
      const added = Array.from({ length: random.pick([1, 1000]) }, () => digest);
      return { type: 'WorkerBlobs', added, removed: random.chance(0.3) ? added : [] };
    }
    default:
      return random.pick(WORKER_MESSAGES.filter(({ type }) => type !== 'WorkerHello' || random.chance(0.1)));
  }
}

/** An end is looked at only when its worker has signed it. */
function signed(identity: Identity, message: WorkerMessage): WorkerMessage {
  if (message?.type !== 'AttemptEnded') return message;
  try {
    const plain = JSON.parse(JSON.stringify(message)) as typeof message;
    return { ...message, signature: identity.sign(endStatement(plain)) };
  } catch {
    return message;
  }
}
