import { BatchRecord, MAX_WAIT_MS } from '@cocore/protocol';
import { GIVE_UP_MS, RECONNECT_MS } from './follow.ts';
import { type Http, isPassing } from './http.ts';

/** A batch when all of it has ended; a server that is away for a while is waited for. @throws CocoreError */
export async function waitForBatch(http: Http, path: string, signal?: AbortSignal): Promise<BatchRecord> {
  let lostAtMs: number | null = null;
  for (;;) {
    try {
      const init = { query: { wait: `${MAX_WAIT_MS}ms` }, ...(signal === undefined ? {} : { signal }) };
      const batch = await http.json('GET', path, BatchRecord, init);
      lostAtMs = null;
      if (batch.endedAt !== null) return batch;
    } catch (error) {
      if (signal?.aborted === true || !isPassing(error)) throw error;
      lostAtMs ??= Date.now();
      if (Date.now() - lostAtMs > GIVE_UP_MS) throw error;
      await new Promise<void>((resolve) => setTimeout(resolve, RECONNECT_MS));
    }
  }
}
