import { Queue, QueueEvents, Worker } from 'bullmq';
import { type Client, CONCURRENCY, type Peer, type Place, until } from './peer.ts';
import { startRedis } from './redis.ts';

const NAME = 'bench';
const POLL_MS = 20;
const JOB = { name: 'noop', data: { i: 1 } };

const optionsOf = ({ path }: Place) => ({ connection: { path: path!, maxRetriesPerRequest: null } });

async function work(place: Place): Promise<AsyncDisposable> {
  const worker = new Worker(NAME, async () => 1, { ...optionsOf(place), concurrency: CONCURRENCY });
  await worker.waitUntilReady();
  return { [Symbol.asyncDispose]: () => worker.close() };
}

async function connect(place: Place): Promise<Client> {
  const queue = new Queue(NAME, optionsOf(place));
  // Each job that is waited for has listeners on both.
  queue.setMaxListeners(0);
  const events = new QueueEvents(NAME, optionsOf(place));
  events.setMaxListeners(0);
  await events.waitUntilReady();
  return {
    enqueue: () => queue.add(JOB.name, JOB.data),
    enqueueMany: (count) => queue.addBulk(Array.from({ length: count }, () => JOB)),
    drained: () =>
      until(async () => {
        const counts = await queue.getJobCounts('wait', 'active', 'prioritized', 'delayed');
        return Object.values(counts).every((count) => count === 0);
      }, POLL_MS),
    execute: async () => (await queue.add(JOB.name, JOB.data)).waitUntilFinished(events),
    [Symbol.asyncDispose]: async () => {
      await events.close();
      await queue.close();
    },
  };
}

const peer = (appendFsync: 'always' | 'everysec'): Peer => ({
  name: `bullmq-${appendFsync}`,
  durability: appendFsync === 'always' ? 'each answer' : 'up to a second is lost',
  store: 'Redis',
  start: (directory) => startRedis(directory, appendFsync),
  work,
  connect,
});

export const PEERS: readonly Peer[] = [peer('always'), peer('everysec')];
