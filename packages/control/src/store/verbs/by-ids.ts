import type { Context } from './context.ts';
import type { SqlValue, Verb } from './statements.ts';

/** So many are found by one statement. */
const FOUND_AT_ONCE = 32;
/** What stands in a statement for the ids of `allByIds`, as in `… IN (${ID_PLACES})`, its last parameters. */
export const ID_PLACES = Array.from({ length: FOUND_AT_ONCE }, () => '?').join(', ');

/** The rows of all of them: of those of one statement in its order, one statement after the other. */
export function* allByIds<Row extends object>(
  { db }: Context,
  sql: string,
  ids: readonly string[],
  ...parameters: readonly SqlValue[]
): Verb<Row[]> {
  const found: Row[] = [];
  for (let at = 0; at < ids.length; at += FOUND_AT_ONCE) {
    const some = ids.slice(at, at + FOUND_AT_ONCE);
    const none = Array.from({ length: FOUND_AT_ONCE - some.length }, () => '');
    found.push(...(yield* db.all<Row>(sql, ...parameters, ...some, ...none)));
  }
  return found;
}
