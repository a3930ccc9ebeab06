import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { type Client, CONCURRENCY, type Peer, type Place, until } from './peer.ts';
import { POOL_SIZE, startPostgres } from './postgres.ts';
import { Waiters } from './waiters.ts';

const TASK = 'noop';
const PAYLOAD = { i: 1 };
const POLL_MS = 50;
const JOBS = 'graphile_worker._private_jobs';

const optionsOf = ({ url }: Place) => ({
  connectionString: url!,
  maxPoolSize: POOL_SIZE,
  logger: new Logger(() => () => undefined),
});

/** Jobs are taken 500 at a time, and what has ended is said of many at once. */
const BATCHED = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };

async function work(place: Place, isBatched: boolean): Promise<AsyncDisposable> {
  const runner = await run({
    ...optionsOf(place),
    concurrency: CONCURRENCY,
    noHandleSignals: true,
    taskList: { [TASK]: async () => undefined },
    ...(isBatched ? { preset: { worker: BATCHED } } : {}),
  });
  return { [Symbol.asyncDispose]: () => runner.stop() };
}

async function connect(place: Place): Promise<Client> {
  const utils = await makeWorkerUtils(optionsOf(place));
  await utils.migrate();
  const pool = new pg.Pool({ connectionString: place['url']!, max: POOL_SIZE });
  // What has ended is deleted.
  const waiters = new Waiters(async (ids) => {
    const { rows } = await pool.query<{ id: string }>(`SELECT id FROM ${JOBS} WHERE id = ANY($1)`, [ids]);
    const left = new Set(rows.map(({ id }) => id));
    return ids.filter((id) => !left.has(id));
  });
  return {
    enqueue: () => utils.addJob(TASK, PAYLOAD),
    enqueueMany: (count) =>
      utils.addJobs(Array.from({ length: count }, () => ({ identifier: TASK, payload: PAYLOAD }))),
    drained: () =>
      until(async () => {
        const { rows } = await pool.query<{ left: boolean }>(`SELECT EXISTS (SELECT 1 FROM ${JOBS}) AS left`);
        return !rows[0]!.left;
      }, POLL_MS),
    execute: async () => waiters.end((await utils.addJob(TASK, PAYLOAD)).id),
    [Symbol.asyncDispose]: async () => {
      await utils.release();
      await pool.end();
    },
  };
}

const peer = (name: string, isBatched: boolean): Peer => ({
  name,
  durability: 'each answer',
  store: 'PostgreSQL',
  start: startPostgres,
  work: (place) => work(place, isBatched),
  connect,
});

export const PEERS: readonly Peer[] = [peer('graphile', false), peer('graphile-batched', true)];
