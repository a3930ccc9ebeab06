import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

export function* recordAllowance({ db }: Context, workerId: string, allowance: number): Verb<void> {
  yield* db.send(
    'UPDATE workers SET allowance = ? WHERE worker_id = ? AND allowance < ?',
    allowance,
    workerId,
    allowance,
  );
}
