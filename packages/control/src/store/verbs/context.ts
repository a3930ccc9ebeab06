import type { IdKind, IdMaker } from '@cocore/protocol';
import type { Statements } from './statements.ts';

/** What every verb runs with. */
export interface Context {
  readonly db: Statements;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
  readonly random: (bytes: number) => Uint8Array;
  readonly ids: IdMaker;
}

export function newId(context: Context, kind: IdKind): string {
  return context.ids.make(kind, context.now(), context.random(10));
}
