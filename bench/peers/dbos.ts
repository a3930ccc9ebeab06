import { DBOS, DBOSClient } from '@dbos-inc/dbos-sdk';
import pg from 'pg';
import { type Client, CONCURRENCY, type Peer, type Place, until } from './peer.ts';
import { POOL_SIZE, startPostgres } from './postgres.ts';

const QUEUE = 'bench';
const WORKFLOW = 'noop';
const POLL_MS = 50;
/** Both are a second if not said otherwise. */
const DISPATCH_POLL_MS = 5;
const RESULT_POLL_MS = 2;

const log = { info: () => undefined, debug: () => undefined, warn: () => undefined, error: console.error };

async function launch({ url }: Place): Promise<(value: number) => Promise<number>> {
  DBOS.setConfig({
    name: 'bench',
    systemDatabaseUrl: url!,
    systemDatabasePoolSize: POOL_SIZE,
    runAdminServer: false,
    logger: log,
  });
  const workflow = DBOS.registerWorkflow(async (value: number) => value, { name: WORKFLOW });
  await DBOS.launch();
  return workflow;
}

async function work(place: Place): Promise<AsyncDisposable> {
  await launch(place);
  await DBOS.registerQueue(QUEUE, { workerConcurrency: CONCURRENCY, minPollingIntervalMs: DISPATCH_POLL_MS });
  return { [Symbol.asyncDispose]: () => DBOS.shutdown() };
}

async function connect(place: Place): Promise<Client> {
  // The schema is made by who runs workflows.
  await launch(place);
  await DBOS.shutdown();
  const options = { systemDatabaseUrl: place['url']!, systemDatabasePoolSize: POOL_SIZE, logger: log };
  const client = await DBOSClient.create(options);
  const pool = new pg.Pool({ connectionString: place['url']!, max: 1 });
  const enqueue = () => client.enqueue({ queueName: QUEUE, workflowName: WORKFLOW }, 1);
  return {
    enqueue,
    enqueueMany: null,
    drained: () =>
      until(async () => {
        const live = `SELECT EXISTS (SELECT 1 FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING')) AS left`;
        return !(await pool.query<{ left: boolean }>(live)).rows[0]!.left;
      }, POLL_MS),
    execute: async () => (await enqueue()).getResult({ pollingIntervalMs: RESULT_POLL_MS }),
    [Symbol.asyncDispose]: async () => {
      await client.destroy();
      await pool.end();
    },
  };
}

/** Who asks runs the workflow itself: there is no queue and no worker. */
async function connectDirectly(place: Place): Promise<Client> {
  const workflow = await launch(place);
  return {
    enqueue: null,
    enqueueMany: null,
    drained: async () => undefined,
    execute: () => workflow(1),
    [Symbol.asyncDispose]: () => DBOS.shutdown(),
  };
}

const COMMON = { durability: 'each answer', store: 'PostgreSQL', start: startPostgres } as const;

export const PEERS: readonly Peer[] = [
  { ...COMMON, name: 'dbos-queue', work, connect },
  { ...COMMON, name: 'dbos-direct', work: null, connect: connectDirectly },
];
