import {
  CocoreError,
  JoinTokenCreate,
  JoinTokenRecord,
  type WorkerDrain,
  WorkerList,
  WorkerRecord,
} from '@cocore/protocol';
import { z } from 'zod';
import { makeJoinToken } from '../auth/secrets.ts';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { StoredWorker, WorkerLoad } from '../store/store.ts';
import type { HttpParts } from './parts.ts';
import { type Answer, type Route, route } from './route.ts';

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
        const loads = await loadsElsewhere(parts, workers);
        return { status: 200, body: { workers: workers.map((worker) => workerRecord(parts, worker, loads)) } };
      },
    }),
    route({
      method: 'POST',
      path: '/v1/workers/{worker}/drain',
      summary: 'Gives a worker nothing more; what it has is finished',
      access: 'operator',
      body: z.strictObject({}),
      answers: { 200: WorkerRecord },
      handle: async ({ parameters }) => setDrained(parts, parameters['worker']!, true),
    }),
    route({
      method: 'POST',
      path: '/v1/workers/{worker}/undrain',
      summary: 'Gives a worker work again',
      access: 'operator',
      body: z.strictObject({}),
      answers: { 200: WorkerRecord },
      handle: async ({ parameters }) => setDrained(parts, parameters['worker']!, false),
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

async function setDrained(parts: HttpParts, workerId: string, drained: boolean): Promise<Answer> {
  const isKnown = await parts.dispatcher.drains.set(workerId, drained);
  const worker = isKnown ? (await parts.store.listWorkers()).find((one) => one.workerId === workerId) : undefined;
  if (worker === undefined) throw new CocoreError('worker_not_found', `there is no worker ${workerId}`);
  return { status: 200, body: workerRecord(parts, worker, await loadsElsewhere(parts, [worker])) };
}

/** What workers have that are online at other servers. */
async function loadsElsewhere(parts: HttpParts, workers: readonly StoredWorker[]): Promise<Map<string, WorkerLoad>> {
  if (!workers.some((worker) => parts.dispatcher.elsewhere.has(worker))) return new Map();
  return new Map((await parts.store.listWorkerLoads()).map((load) => [load.workerId, load]));
}

function drainOf(
  dispatcher: Dispatcher,
  { workerId, drainedAtMs }: StoredWorker,
  elsewhere: Elsewhere,
): WorkerDrain | null {
  if (elsewhere !== null) {
    // What its owner wants is known where it has its session.
    if (drainedAtMs === null) return null;
    const state = elsewhere.attempts === 0 ? 'drained' : 'draining';
    return { by: 'operator', state, since: new Date(drainedAtMs).toISOString() };
  }
  const drain = dispatcher.drains.of(workerId);
  if (drain === null) return null;
  const { by, how, sinceMs } = drain;
  // What came before the drain and is being assigned has its room already.
  const isEmpty = dispatcher.scheduler.usage(workerId).memoryMiB === 0 && isNone(dispatcher.live.ofWorker(workerId));
  const state = how === 'reclaim' ? 'reclaiming' : isEmpty ? 'drained' : 'draining';
  return { by, state, since: new Date(sinceMs).toISOString() };
}

/** Of a worker that is online at another server; else null. */
type Elsewhere = Omit<WorkerLoad, 'workerId'> | null;

const isNone = (all: Iterable<unknown>): boolean => all[Symbol.iterator]().next().done === true;

const NOTHING = { attempts: 0, cpus: 0, memoryMiB: 0 };

function workerRecord(
  { dispatcher }: HttpParts,
  worker: StoredWorker,
  loads: ReadonlyMap<string, WorkerLoad>,
): WorkerRecord {
  const { capabilities } = worker;
  const link = dispatcher.link(worker.workerId);
  const isElsewhere = link === undefined && dispatcher.elsewhere.has(worker);
  const elsewhere: Elsewhere = isElsewhere ? (loads.get(worker.workerId) ?? NOTHING) : null;
  const usage = elsewhere ?? dispatcher.scheduler.usage(worker.workerId);
  const lastBeatAtMs = link?.lastBeatAtMs ?? worker.lastBeatAtMs;
  const timestamp = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  return {
    id: worker.workerId,
    name: worker.name,
    state: link === undefined && elsewhere === null ? 'offline' : 'online',
    driver: capabilities.driver,
    isolation: capabilities.isolation,
    egress: capabilities.egress,
    cpus: capabilities.cpus,
    memoryMiB: capabilities.memoryMiB,
    diskMiB: capabilities.diskMiB,
    usedCpus: usage.cpus,
    usedMemoryMiB: usage.memoryMiB,
    attempts: elsewhere?.attempts ?? [...dispatcher.live.ofWorker(worker.workerId)].length,
    drain: drainOf(dispatcher, worker, elsewhere),
    ...dispatcher.trust.of(worker.workerId),
    daemonVersion: worker.daemonVersion,
    platform: worker.platform,
    joinedAt: new Date(worker.joinedAtMs).toISOString(),
    connectedAt: timestamp(worker.connectedAtMs),
    lastBeatAt: timestamp(lastBeatAtMs),
  };
}
