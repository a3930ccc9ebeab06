import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

interface Row {
  readonly incarnation: string;
  readonly marker: string;
  readonly earlier_marker: string | null;
}

const READ = 'SELECT incarnation, marker, earlier_marker FROM incarnation';

export function* claimIncarnation(
  context: Context,
  claim: { readonly found: string | null; readonly restored: boolean; readonly next: string },
): Verb<{ incarnation: string; isNew: boolean }> {
  const { db } = context;
  const row = yield* db.get<Row>(READ);
  const { found, restored, next } = claim;
  const isKnown = row !== undefined && found !== null && (found === row.marker || found === row.earlier_marker);
  const isNew = restored || !isKnown;
  const incarnation = isNew ? Buffer.from(context.random(16)).toString('hex') : row.incarnation;
  yield* db.send(
    `INSERT INTO incarnation (one, incarnation, marker, earlier_marker) VALUES (1, ?, ?, ?)
     ON CONFLICT (one) DO UPDATE SET incarnation = excluded.incarnation, marker = excluded.marker, earlier_marker = excluded.earlier_marker`,
    incarnation,
    next,
    found,
  );
  const isFirst = row === undefined && found === null;
  return { incarnation, isNew: isNew && (restored || !isFirst) };
}

export function* advanceMarker({ db }: Context, found: string, next: string): Verb<void> {
  yield* db.send('UPDATE incarnation SET marker = ?, earlier_marker = ?', next, found);
}
