import { JoinTokenCreate, JoinTokenRecord, WorkerList, type WorkerRecord } from '@cocore/protocol';
import { makeJoinToken } from '../auth/secrets.ts';
import type { StoredWorker } from '../store/store.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

export function workerRoutes(parts: HttpParts): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/workers',
      summary: 'Lists every worker that has joined',
      access: 'operator',
      answers: { 200: WorkerList },
      handle: async () => {
        const workers = await parts.store.listWorkers();
        return { status: 200, body: { workers: workers.map((worker) => workerRecord(parts, worker)) } };
      },
    }),
    route({
      method: 'POST',
      path: '/v1/join-tokens',
      summary: 'Makes a token with which one worker can join once',
      access: 'operator',
      body: JoinTokenCreate,
      answers: { 201: JoinTokenRecord },
      handle: async ({ body }) => {
        const { token, hash } = makeJoinToken(parts.serverId, parts.certificateSha256);
        const expiresAtMs = await parts.store.createJoinToken({ hash, ttlMs: body.ttlMs });
        return { status: 201, body: { token, expiresAt: new Date(expiresAtMs).toISOString() } };
      },
    }),
  ];
}

function workerRecord({ dispatcher }: HttpParts, worker: StoredWorker): WorkerRecord {
  const { capabilities } = worker;
  const link = dispatcher.link(worker.workerId);
  const usage = dispatcher.scheduler.usage(worker.workerId);
  const lastBeatAtMs = link?.lastBeatAtMs ?? worker.lastBeatAtMs;
  const timestamp = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  return {
    id: worker.workerId,
    name: worker.name,
    state: link === undefined ? 'offline' : 'online',
    driver: capabilities.driver,
    isolation: capabilities.isolation,
    cpus: capabilities.cpus,
    memoryMiB: capabilities.memoryMiB,
    diskMiB: capabilities.diskMiB,
    usedCpus: usage.cpus,
    usedMemoryMiB: usage.memoryMiB,
    attempts: [...dispatcher.live.ofWorker(worker.workerId)].length,
    daemonVersion: worker.daemonVersion,
    platform: worker.platform,
    joinedAt: new Date(worker.joinedAtMs).toISOString(),
    connectedAt: timestamp(worker.connectedAtMs),
    lastBeatAt: timestamp(lastBeatAtMs),
  };
}
