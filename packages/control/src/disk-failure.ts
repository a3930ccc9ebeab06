/** Of the kernel: the disk is full, over its quota, broken, or can only be read. */
const SYSTEM_CODES: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EIO', 'EROFS']);
/** Of SQLite (`sqlite3.h`): busy, read only, I/O error, full, cannot open. */
const SQLITE_CODES: ReadonlySet<number> = new Set([5, 8, 10, 13, 14]);

/** A write that the store could not do, through no fault of who asked for it. */
export class DiskFailure extends Error {}

/** Whether a disk of this server is what failed, so that the same may succeed once it is mended. */
export function isDiskFailure(error: unknown): boolean {
  if (error instanceof DiskFailure) return true;
  if (!(error instanceof Error)) return false;
  const { code, errcode } = error as Error & { code?: unknown; errcode?: unknown };
  if (code === 'ERR_SQLITE_ERROR' && typeof errcode === 'number') return SQLITE_CODES.has(errcode & 0xff);
  return typeof code === 'string' && SYSTEM_CODES.has(code);
}
