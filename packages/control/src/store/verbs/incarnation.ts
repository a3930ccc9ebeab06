import type { ServerFacts } from '../store.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

interface Marker {
  readonly incarnation: string;
  /** Empty where each data directory has its own. */
  readonly marker: string;
  readonly earlier_marker: string | null;
}

interface Row extends Marker {
  readonly server_id: string | null;
}

const READ = 'SELECT incarnation, marker, earlier_marker, server_id FROM incarnation';
const READ_OF_DIRECTORY = 'SELECT incarnation, marker, earlier_marker FROM markers WHERE directory_id = ?';
const WRITE_OF_DIRECTORY = `
  INSERT INTO markers (directory_id, incarnation, marker, earlier_marker) VALUES (?, ?, ?, ?)
  ON CONFLICT (directory_id) DO UPDATE SET incarnation = excluded.incarnation, marker = excluded.marker, earlier_marker = excluded.earlier_marker`;

export function* claimIncarnation(
  context: Context,
  claim: {
    readonly server?: ServerFacts | null;
    readonly found: string | null;
    readonly restored: boolean;
    readonly next: string;
  },
): Verb<{ incarnation: string; isNew: boolean; serverId: string | null }> {
  const { db } = context;
  const row = yield* db.get<Row>(READ);
  const { server = null, found, restored, next } = claim;
  const isKnown = row !== undefined && (yield* isOfHistory(context, row, found, server));
  const isNew = restored || !isKnown;
  const incarnation = isNew ? Buffer.from(context.random(16)).toString('hex') : row.incarnation;
  const serverId = server === null ? null : (row?.server_id ?? server.directoryId);
  const [marker, earlier] = server === null ? [next, found] : ['', null];
  yield* db.send(
    `INSERT INTO incarnation (one, incarnation, marker, earlier_marker, server_id) VALUES (1, ?, ?, ?, ?)
     ON CONFLICT (one) DO UPDATE SET incarnation = excluded.incarnation, marker = excluded.marker, earlier_marker = excluded.earlier_marker,
       server_id = excluded.server_id`,
    ...[incarnation, marker, earlier, serverId],
  );
  if (server !== null) yield* db.send(WRITE_OF_DIRECTORY, server.directoryId, incarnation, next, found);
  const isFirst = row === undefined && found === null;
  return { incarnation, isNew: isNew && (restored || !isFirst), serverId };
}

/** Whether what was found beside the store is of its history. */
function* isOfHistory(context: Context, row: Row, found: string | null, server: ServerFacts | null): Verb<boolean> {
  const has = ({ marker, earlier_marker }: Marker) => found !== null && (found === marker || found === earlier_marker);
  if (server === null) return has(row);
  const { db } = context;
  const own = yield* db.get<Marker>(READ_OF_DIRECTORY, server.directoryId);
  // Since then another server has found out already that it is a new one.
  if (own !== undefined) return has(own) || own.incarnation !== row.incarnation;
  if (has(row)) return true;
  // A new directory, which joins those that are there.
  const other = yield* db.get('SELECT 1 FROM servers WHERE server_id <> ? LIMIT 1', server.serverId);
  return found === null && other !== undefined;
}

export function* advanceMarker(
  { db }: Context,
  found: string,
  next: string,
  directoryId: string | null = null,
): Verb<void> {
  if (directoryId === null) yield* db.send('UPDATE incarnation SET marker = ?, earlier_marker = ?', next, found);
  else
    yield* db.send(
      'UPDATE markers SET marker = ?, earlier_marker = ? WHERE directory_id = ?',
      next,
      found,
      directoryId,
    );
}
