import type { LiveAttemptRow, ServerFacts, StoredServer } from '../store.ts';
import { liveOfWorker } from './attempt-rows.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

/** Which servers use the database. A server that ends without a word leaves its row behind, whose beat changes no more. */

interface ServerRow {
  readonly server_id: string;
  readonly blobs: string;
  readonly beat: number;
}

export function* listServers({ db }: Context): Verb<StoredServer[]> {
  const rows = yield* db.all<ServerRow>('SELECT server_id, blobs, beat FROM servers ORDER BY server_id');
  return rows.map(({ server_id, blobs, beat }) => ({ serverId: server_id, blobs, beat }));
}

export function* joinServers(context: Context, facts: ServerFacts): Verb<StoredServer[]> {
  // Its directory has one process at a time: what it left there is of an earlier life.
  yield* context.db.send('DELETE FROM servers WHERE directory_id = ?', facts.directoryId);
  const others = yield* listServers(context);
  const strangers = others.filter(({ blobs }) => blobs !== facts.blobs);
  if (strangers.length === 0) yield* beatServer(context, facts);
  return strangers;
}

export function* beatServer({ db, now }: Context, { serverId, directoryId, blobs }: ServerFacts): Verb<void> {
  yield* db.send(
    `INSERT INTO servers (server_id, directory_id, blobs, beat, started_at) VALUES (?, ?, ?, 0, ?)
     ON CONFLICT (server_id) DO UPDATE SET beat = servers.beat + 1`,
    serverId,
    directoryId,
    blobs,
    now(),
  );
}

export function* leaveServers({ db }: Context, serverId: string): Verb<void> {
  yield* db.send('DELETE FROM servers WHERE server_id = ?', serverId);
}

/** Workers that nobody who is there sees to, and that have something. */
const ORPHANS = `
  SELECT w.worker_id FROM workers w
  WHERE NOT EXISTS (SELECT 1 FROM servers s WHERE s.server_id = w.server_id)
    AND EXISTS (SELECT 1 FROM attempts a WHERE a.worker_id = w.worker_id AND a.ended_at IS NULL)
  ORDER BY w.worker_id`;

export function* claimWorkers(
  context: Context,
  serverId: string,
  gone: readonly Pick<StoredServer, 'serverId' | 'beat'>[],
): Verb<LiveAttemptRow[]> {
  const { db } = context;
  for (const { serverId: other, beat } of gone) {
    const removed = yield* db.run('DELETE FROM servers WHERE server_id = ? AND beat = ?', other, beat);
    // Should it live after all, it is given no word of theirs any more, and has them dial again.
    if (removed === 1) yield* db.send('UPDATE workers SET session_id = NULL WHERE server_id = ?', other);
  }
  const claimed: LiveAttemptRow[] = [];
  for (const { worker_id: workerId } of yield* db.all<{ worker_id: string }>(ORPHANS)) {
    yield* db.send('UPDATE workers SET server_id = ? WHERE worker_id = ?', serverId, workerId);
    claimed.push(...(yield* liveOfWorker(context, workerId)));
  }
  return claimed;
}
