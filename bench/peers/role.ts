/** A client or a worker of one system, in a process of its own: `role.ts FILE NAME client|worker`. It is told what to do by messages. */
import { type Client, CHUNK, type Peer, type Place } from './peer.ts';

export type Order =
  | { readonly do: 'start'; readonly place: Place }
  | { readonly do: 'enqueue' | 'execute'; readonly count: number; readonly inFlight: number }
  | { readonly do: 'enqueueMany'; readonly count: number }
  | { readonly do: 'drained' }
  | { readonly do: 'stop' };

/** What an order came to. Times are in milliseconds; `null` where the system has no such thing. */
export type Done = { readonly tookMs: number; readonly timesMs: readonly number[] } | null;
export type Answer = { readonly done: Done } | { readonly failed: string };

/** Jobs, so many at once, and how long each took. */
async function atOnce(count: number, inFlight: number, job: () => Promise<unknown>): Promise<number[]> {
  const timesMs: number[] = [];
  let begun = 0;
  const lane = async () => {
    while (begun < count) {
      begun += 1;
      const at = performance.now();
      await job();
      timesMs.push(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  return timesMs;
}

async function inChunks(count: number, enqueueMany: (count: number) => Promise<unknown>): Promise<void> {
  for (let left = count; left > 0; left -= CHUNK) await enqueueMany(Math.min(CHUNK, left));
}

async function carryOut(
  order: Exclude<Order, { do: 'start' | 'stop' }>,
  client: Client,
): Promise<readonly number[] | null> {
  switch (order.do) {
    case 'enqueue':
      return client.enqueue === null ? null : atOnce(order.count, order.inFlight, client.enqueue);
    case 'execute':
      return atOnce(order.count, order.inFlight, () => client.execute());
    case 'enqueueMany':
      if (client.enqueueMany === null) return null;
      await inChunks(order.count, client.enqueueMany);
      return [];
    case 'drained':
      await client.drained();
      return [];
  }
}

async function main(file: string, name: string, role: string): Promise<void> {
  const { PEERS } = (await import(`./${file}.ts`)) as { PEERS: readonly Peer[] };
  const peer = PEERS.find((one) => one.name === name)!;
  let client: Client | null = null;
  let worker: AsyncDisposable | null = null;
  const obey = async (order: Order): Promise<Done> => {
    const began = performance.now();
    if (order.do === 'start') {
      if (role === 'worker') worker = await peer.work!(order.place);
      else client = await peer.connect(order.place);
      return { tookMs: performance.now() - began, timesMs: [] };
    }
    if (order.do === 'stop') {
      await Promise.all([client?.[Symbol.asyncDispose](), worker?.[Symbol.asyncDispose]()]);
      return null;
    }
    const timesMs = await carryOut(order, client!);
    return timesMs === null ? null : { tookMs: performance.now() - began, timesMs };
  };
  process.on('message', (order: Order) => {
    void obey(order).then(
      (done) => process.send!({ done } satisfies Answer),
      (error: unknown) =>
        process.send!({
          failed: error instanceof Error ? (error.stack ?? error.message) : String(error),
        } satisfies Answer),
    );
  });
  // The bench is gone, or has had its last answer.
  process.once('disconnect', () => process.exit());
}

const [file, name, role] = process.argv.slice(2);
await main(file!, name!, role!);
