import { createRequire } from 'node:module';
import { serve, service } from '@restatedev/restate-sdk';
import { connect as dial } from '@restatedev/restate-sdk-clients';
import { type Client, type Peer, type Place, type Services, until } from './peer.ts';
import { freePort, Program } from './service.ts';

const SERVICE = { name: 'bench' };
const POLL_MS = 50;

async function start(directory: string): Promise<Services> {
  const [ingress, admin, node, worker] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
  const at = (port: number) => `127.0.0.1:${port}`;
  const own = createRequire(import.meta.url);
  const program = new Program(
    own.resolve(`@restatedev/restate-server-${process.platform}-${process.arch}/bin/restate-server`),
    ['--no-logo', '--node-name', 'bench', '--base-dir', directory],
    {
      cwd: directory,
      env: {
        ...process.env,
        RESTATE_LISTEN_MODE: 'tcp',
        RESTATE_BIND_ADDRESS: at(node),
        RESTATE_ADVERTISED_ADDRESS: `http://${at(node)}/`,
        RESTATE_INGRESS__BIND_ADDRESS: at(ingress),
        RESTATE_ADMIN__BIND_ADDRESS: at(admin),
        RESTATE_DISABLE_TELEMETRY: 'true',
        RUST_LOG: 'error',
      },
    },
  );
  const adminUrl = `http://${at(admin)}`;
  const url = `http://${at(ingress)}`;
  await program.answers(async () => {
    const [one, other] = await Promise.all([fetch(`${adminUrl}/health`), fetch(`${url}/restate/health`)]);
    if (!one.ok || !other.ok) throw new Error('not yet');
  });
  return {
    place: { url, adminUrl, workerPort: String(worker) },
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
}

async function post(url: string, body: unknown): Promise<string> {
  const headers = { 'content-type': 'application/json', accept: 'application/json' };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${url} answers ${response.status}: ${text}`);
  return text;
}

async function work({ adminUrl, workerPort }: Place): Promise<AsyncDisposable> {
  const handlers = { noop: async (_context: unknown, input: number) => input };
  await serve({ services: [service({ ...SERVICE, handlers })], port: Number(workerPort) });
  await post(`${adminUrl}/deployments`, { uri: `http://127.0.0.1:${workerPort}`, force: true });
  // The process ends with it.
  return { [Symbol.asyncDispose]: async () => undefined };
}

async function connect({ url, adminUrl }: Place): Promise<Client> {
  const ingress = dial({ url: url! });
  const [calls, sends] = [ingress.serviceClient(SERVICE), ingress.serviceSendClient(SERVICE)];
  const query = `SELECT count(*) AS left FROM sys_invocation WHERE status != 'completed'`;
  return {
    enqueue: () => sends.noop(1),
    enqueueMany: null,
    drained: () => until(async () => /"left":\s*0\b/.test(await post(`${adminUrl}/query`, { query })), POLL_MS),
    execute: () => calls.noop(1),
    [Symbol.asyncDispose]: async () => undefined,
  };
}

export const PEERS: readonly Peer[] = [
  { name: 'restate', durability: 'each answer', store: 'its own', needsWorker: true, start, work, connect },
];
