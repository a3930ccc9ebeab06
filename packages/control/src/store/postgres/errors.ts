import { CocoreError } from '@cocore/protocol';
import { DiskFailure } from '../../disk-failure.ts';

/** The database cannot be reached, or takes nothing now: as a full disk, it is no fault of who asked. */
export class DatabaseFailure extends DiskFailure {}

const sqlStateOf = (error: unknown): string | null => {
  const { code, severity } = error as { code?: unknown; severity?: unknown };
  return typeof code === 'string' && typeof severity === 'string' ? code : null;
};

/**
 * Of PostgreSQL: it ends the connection (57P; 25P03 when the server stood still within a transaction), or what is prepared on it fits no more, because a newer server has changed the schema (0A000).
 */
const ENDS_CONNECTION = /^(08|57P)|^(0A000|25P03)$/;
/** It lets nobody in, or is not there; connections, memory or disk are used up; it was asked to stop; a lock took too long; only reading is allowed; a file could not be read or written. */
const UNAVAILABLE = /^(28|3D|40|53|57|58|25006$|55P03$)/;

/** The connection ended, or gave no answer in time. */
export class LostConnection extends Error {}

/** Whether the connection is of no more use. */
export function isLost(error: unknown): boolean {
  return error instanceof LostConnection || ENDS_CONNECTION.test(sqlStateOf(error) ?? '');
}

/** Two servers wrote the same at the same time: whatever was asked for may be asked for again. */
export function isCollision(error: unknown): boolean {
  return ['23505', '40001', '40P01'].includes(sqlStateOf(error) ?? '');
}

/** As the store's callers see it. */
export function storeError(error: unknown): unknown {
  const isOthers = error instanceof CocoreError && error.code === 'database_unfit';
  const isFailure = isOthers || isLost(error) || UNAVAILABLE.test(sqlStateOf(error) ?? '') || isOfNetwork(error);
  return isFailure ? new DatabaseFailure((error as Error).message, { cause: error }) : error;
}

/** While it is connected to, or was cut off at once: `pg` has no code for these. */
const isOfNetwork = (error: unknown): boolean =>
  error instanceof Error && ('syscall' in error || /timeout|terminated|SSL|not queryable/.test(error.message));

/** What an operator is told whose database cannot be used at the start. */
export function startError(error: unknown, place: string): CocoreError {
  if (error instanceof CocoreError) return error;
  const state = sqlStateOf(error);
  const { message } = error as Error;
  const what = state?.startsWith('28') === true ? 'lets the server not in' : 'cannot be used';
  return new CocoreError('database_unavailable', `the database at ${place} ${what}: ${message}`, { cause: error });
}
