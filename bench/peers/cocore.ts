import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CocoreClient } from '@cocore/client';
import { defaultArtifacts } from '../../packages/worker/src/config.ts';
import { type Client, CONCURRENCY, type Peer, type Place, type Services, until } from './peer.ts';
import { startPostgres } from './postgres.ts';
import { Program } from './service.ts';

const FUNCTION = 'noop';
const POLL_MS = 20;
const WAIT_MS = 60_000;
const DATABASE_URL = 'COCORE_DATABASE_URL';

/** Daemons are started as the command starts them. Extra flags of Node, for a profile, are in the environment. */
function daemon(name: 'control' | 'worker', args: readonly string[], env: NodeJS.ProcessEnv): Program {
  const main = fileURLToPath(new URL(`../../packages/${name}/src/main.ts`, import.meta.url));
  const flags = (process.env[`COCORE_BENCH_NODE_${name.toUpperCase()}`] ?? '').split(' ').filter(Boolean);
  return new Program(process.execPath, [...flags, main, ...args], {
    env: { ...env, COCORE_LOG_LEVEL: process.env['COCORE_LOG_LEVEL'] ?? 'error' },
  });
}

async function startServer(directory: string, env: NodeJS.ProcessEnv): Promise<Services> {
  const dataDir = join(directory, 'server');
  const args = ['--data-dir', dataDir, '--artifacts', defaultArtifacts(process.env), '--port', '0'];
  const program = daemon('control', [...args, '--default-isolation', 'container'], env);
  const [, url] = await program.prints(/^ready (\S+)$/m);
  const apiKey = (await readFile(join(dataDir, 'operator.key'), 'utf8')).trim();
  return { place: { url: url!, apiKey }, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}

async function startOnPostgres(directory: string): Promise<Services> {
  await using scope = new AsyncDisposableStack();
  const postgres = scope.use(await startPostgres(directory));
  const server = scope.use(await startServer(directory, { ...process.env, [DATABASE_URL]: postgres.place['url'] }));
  const owned = scope.move();
  return { place: server.place, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function startWorker({ url, apiKey }: Place, directory: string): Promise<AsyncDisposable> {
  const client = new CocoreClient({ url: url!, apiKey: apiKey! });
  const tokenFile = join(directory, 'join-token');
  await writeFile(tokenFile, (await client.joinTokens.create()).token, { mode: 0o600 });
  const lease = ['--cpus', String(CONCURRENCY), '--memory', '65536', '--disk', '65536'];
  const own = ['--server', url!, '--data-dir', join(directory, 'worker'), '--join-token-file', tokenFile];
  const program = daemon('worker', [...own, '--isolation', 'fake', '--pool', 'off', ...lease], process.env);
  await program.prints(/^ready wk_/m);
  return program;
}

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
