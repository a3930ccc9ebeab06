import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

export function* setDrained(
  { db, now }: Context,
  workerId: string,
  drained: boolean,
): Verb<{ drainedAtMs: number | null } | null> {
  const changed = yield* db.run(
    'UPDATE workers SET drained_at = CASE WHEN ? = 1 THEN coalesce(drained_at, ?) END WHERE worker_id = ?',
    Number(drained),
    now(),
    workerId,
  );
  if (changed === 0) return null;
  const row = yield* db.get<{ drained_at: number | null }>(
    'SELECT drained_at FROM workers WHERE worker_id = ?',
    workerId,
  );
  return { drainedAtMs: row!.drained_at };
}
