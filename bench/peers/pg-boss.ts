import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { type Client, CONCURRENCY, type Peer, type Place, until } from './peer.ts';
import { POOL_SIZE, startPostgres } from './postgres.ts';
import { Waiters } from './waiters.ts';

const NAME = 'bench';
const DATA = { i: 1 };
const POLL_MS = 50;

async function start({ url }: Place): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString: url!, max: POOL_SIZE, useListenNotify: true });
  boss.on('error', (error) => console.error(error));
  await boss.start();
  await boss.createQueue(NAME, { notify: true });
  return boss;
}

async function work(place: Place): Promise<AsyncDisposable> {
  const boss = await start(place);
  await boss.work(NAME, { batchSize: CONCURRENCY, burstWhenBatchFull: true }, async () => undefined);
  return { [Symbol.asyncDispose]: () => boss.stop({ graceful: true }) };
}

async function connect(place: Place): Promise<Client> {
  const boss = await start(place);
  const pool = new pg.Pool({ connectionString: place['url']!, max: POOL_SIZE });
  const waiters = new Waiters(async (ids) => {
    const ended = `SELECT id FROM pgboss.job WHERE name = $1 AND id = ANY($2::uuid[]) AND state = 'completed'`;
    return (await pool.query<{ id: string }>(ended, [NAME, ids])).rows.map(({ id }) => id);
  });
  return {
    enqueue: () => boss.send(NAME, DATA),
    enqueueMany: (count) =>
      boss.insert(
        NAME,
        Array.from({ length: count }, () => ({ data: DATA })),
      ),
    drained: () =>
      until(async () => {
        const live = `SELECT EXISTS (SELECT 1 FROM pgboss.job WHERE name = $1 AND state < 'completed') AS left`;
        return !(await pool.query<{ left: boolean }>(live, [NAME])).rows[0]!.left;
      }, POLL_MS),
    execute: async () => waiters.end((await boss.send(NAME, DATA))!),
    [Symbol.asyncDispose]: async () => {
      await boss.stop({ graceful: false });
      await pool.end();
    },
  };
}

export const PEERS: readonly Peer[] = [
  { name: 'pg-boss', durability: 'each answer', store: 'PostgreSQL', start: startPostgres, work, connect },
];
