import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { isBlobNeeded } from './unused-blobs.ts';

/** How long a blob that nobody needs is left where several servers share it: longer than any of them takes from keeping bytes to writing down whose they are. */
export const CONDEMNED_MS = 3 * 60 * 60_000;
/** A server that is removing one for so long has died of it. */
export const REMOVING_MS = 10 * 60_000;

interface Row {
  readonly since: number;
  readonly removing_since: number | null;
}

const READ = 'SELECT since, removing_since FROM condemned_blobs WHERE digest = ?';
const SPARE = 'DELETE FROM condemned_blobs WHERE digest = ?';

export function* condemnBlob(context: Context, digest: string): Verb<'needed' | 'condemned' | 'remove'> {
  const { db, now } = context;
  const row = yield* db.get<Row>(READ, digest);
  if (yield* isBlobNeeded(context, digest)) {
    if (row !== undefined) yield* db.send(SPARE, digest);
    return 'needed';
  }
  if (row === undefined) {
    yield* db.send('INSERT INTO condemned_blobs (digest, since) VALUES (?, ?)', digest, now());
    return 'condemned';
  }
  if (row.since > now() - CONDEMNED_MS || isBeingRemoved(context, row)) return 'condemned';
  yield* db.send('UPDATE condemned_blobs SET removing_since = ? WHERE digest = ?', now(), digest);
  return 'remove';
}

export function* spareBlob(context: Context, digest: string): Verb<boolean> {
  const row = yield* context.db.get<Row>(READ, digest);
  if (row === undefined) return true;
  if (isBeingRemoved(context, row)) return false;
  yield* context.db.send(SPARE, digest);
  return true;
}

export function* forgetCondemnedBlob({ db }: Context, digest: string): Verb<void> {
  yield* db.send(SPARE, digest);
}

const isBeingRemoved = ({ now }: Context, row: Row): boolean =>
  row.removing_since !== null && row.removing_since > now() - REMOVING_MS;
