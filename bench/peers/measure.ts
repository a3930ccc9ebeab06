/** One system, once: every row of the table. */
import { quantile } from '../table.ts';
import { Party } from './party.ts';
import { CONCURRENCY, type Peer } from './peer.ts';
import type { Done } from './role.ts';
import { cpuMs, flushCounter, watchMemory } from './usage.ts';

/** How many jobs each phase has. */
const SINGLES = 3_000;
/** No more wait of one function than CoCore lets wait. */
const MANY = 10_000;
const CLOSED = 3_000;
const ALONE = 300;
const WARM_UP = 300;
const MEMORY_EVERY_MS = 1_000;

/** Null where the system has no such thing. */
export interface Figures {
  readonly name: string;
  readonly enqueuedPerSecond: number | null;
  readonly manyPerSecond: number | null;
  readonly manyCpuMs: number | null;
  readonly closedPerSecond: number;
  readonly closedP50Ms: number;
  readonly closedP99Ms: number;
  readonly closedCpuMs: number;
  /** Of the disk, for each execution; null when the disk does not tell. */
  readonly closedFlushes: number | null;
  readonly aloneP50Ms: number;
  readonly aloneP99Ms: number;
  readonly memoryMiB: number | null;
}
export type Measured = Figures & { readonly load: number };

const perSecond = (count: number, done: Done): number | null => (done === null ? null : (count / done.tookMs) * 1000);

/** @param scale of the numbers of jobs */
export async function measure(file: string, peer: Peer, directory: string, scale: number): Promise<Figures> {
  const of = (count: number) => Math.max(CONCURRENCY, Math.round(count * scale));
  await using scope = new AsyncDisposableStack();
  const { place } = scope.use(await peer.start(directory));
  const flushes = await flushCounter(directory);
  const memory = watchMemory(MEMORY_EVERY_MS);
  scope.defer(() => void memory());
  const client = scope.use(await Party.start(file, peer.name, 'client', place));

  const startWorker = async () => {
    if (peer.work !== null) scope.use(await Party.start(file, peer.name, 'worker', place));
    if (peer.startWorker !== undefined) scope.use(await peer.startWorker(place, directory));
  };
  if (peer.needsWorker === true) await startWorker();
  const singles = await client.order({ do: 'enqueue', count: of(SINGLES), inFlight: CONCURRENCY });
  if (peer.needsWorker !== true) await startWorker();
  await client.order({ do: 'drained' });
  await client.order({ do: 'execute', count: of(WARM_UP), inFlight: CONCURRENCY });

  const manyFromMs = cpuMs();
  const many = await client.order({ do: 'enqueueMany', count: of(MANY) });
  const drained = many === null ? null : await client.order({ do: 'drained' });
  const manyTook = many === null ? null : { tookMs: many.tookMs + drained!.tookMs, timesMs: [] };
  const manyCpuMs = many === null ? null : (cpuMs() - manyFromMs) / of(MANY);

  const [cpuFromMs, flushesFrom] = [cpuMs(), flushes?.() ?? null];
  const closed = (await client.order({ do: 'execute', count: of(CLOSED), inFlight: CONCURRENCY }))!;
  const closedCpuMs = (cpuMs() - cpuFromMs) / of(CLOSED);
  const closedFlushes = flushesFrom === null ? null : (flushes!() - flushesFrom) / of(CLOSED);

  await client.order({ do: 'execute', count: WARM_UP / 10, inFlight: 1 });
  const alone = (await client.order({ do: 'execute', count: of(ALONE), inFlight: 1 }))!;
  return {
    name: peer.name,
    enqueuedPerSecond: perSecond(of(SINGLES), singles),
    manyPerSecond: perSecond(of(MANY), manyTook),
    manyCpuMs,
    closedPerSecond: perSecond(of(CLOSED), closed)!,
    closedP50Ms: quantile(closed.timesMs, 0.5),
    closedP99Ms: quantile(closed.timesMs, 0.99),
    closedCpuMs,
    closedFlushes,
    aloneP50Ms: quantile(alone.timesMs, 0.5),
    aloneP99Ms: quantile(alone.timesMs, 0.99),
    memoryMiB: memory(),
  };
}
