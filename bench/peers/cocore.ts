import { CocoreClient } from '@cocore/client';
import { startControl, startDaemon } from '../daemons.ts';
import { type Client, CONCURRENCY, type Peer, type Place, type Services, until } from './peer.ts';
import { startPostgres } from './postgres.ts';

const FUNCTION = 'noop';
const POLL_MS = 20;
const WAIT_MS = 60_000;
const DATABASE_URL = 'COCORE_DATABASE_URL';

async function startServer(directory: string, env: NodeJS.ProcessEnv): Promise<Services> {
  const { url, apiKey, program } = await startControl(directory, env);
  return { place: { url, apiKey }, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}

async function startOnPostgres(directory: string): Promise<Services> {
  await using scope = new AsyncDisposableStack();
  const postgres = scope.use(await startPostgres(directory));
  const server = scope.use(await startServer(directory, { ...process.env, [DATABASE_URL]: postgres.place['url'] }));
  const owned = scope.move();
  return { place: server.place, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const startWorker = ({ url, apiKey }: Place, directory: string): Promise<AsyncDisposable> =>
  startDaemon({ url: url!, apiKey: apiKey! }, directory, 'fake', CONCURRENCY);

async function connect({ url, apiKey }: Place): Promise<Client> {
  const client = new CocoreClient({ url: url!, apiKey: apiKey! });
  const file = { name: 'noop.sh', contentBase64: Buffer.from('exit 0\n').toString('base64') };
  await client.functions.deploy({ name: FUNCTION, runtime: 'bash', file, memoryMiB: 128 });
  const batches: string[] = [];
  return {
    enqueue: () => client.executions.create(FUNCTION, {}),
    enqueueMany: async (count) => {
      const entries = Array.from({ length: count }, () => ({ function: FUNCTION }));
      batches.push((await client.batches.create(entries)).id);
    },
    drained: async () => {
      for (const id of batches.splice(0)) await client.batches.end(id);
      for (const state of ['open', 'running']) {
        await until(async () => (await client.executions.list({ state, limit: 1 })).executions.length === 0, POLL_MS);
      }
    },
    execute: async () => {
      const { state } = await client.executions.create(FUNCTION, {}, { waitMs: WAIT_MS });
      if (state !== 'success') throw new Error(`an execution came to ${state}`);
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

const COMMON = { durability: 'each answer', work: null, startWorker, connect } as const;

export const PEERS: readonly Peer[] = [
  {
    ...COMMON,
    name: 'cocore',
    store: 'SQLite',
    start: (directory) => startServer(directory, { ...process.env, [DATABASE_URL]: undefined }),
  },
  { ...COMMON, name: 'cocore-postgres', store: 'PostgreSQL', start: startOnPostgres },
];
