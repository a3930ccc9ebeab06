import { type IdKind, makeId } from '@cocore/protocol';
import type { Database } from './database.ts';

/** What every verb runs with. */
export interface Context {
  readonly db: Database;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
  readonly random: (bytes: number) => Uint8Array;
}

export function newId(context: Context, kind: IdKind): string {
  return makeId(kind, context.now(), context.random(10));
}
