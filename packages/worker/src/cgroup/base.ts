import { access, mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pidList } from './cgroup.ts';

/** File operations that both versions need. Absence is an answer here, never an error: groups of dead processes vanish. */

const GONE = new Set(['ENOENT', 'ENODEV', 'ESRCH']);

export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

export async function readOrNull(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'latin1');
  } catch (error) {
    if (GONE.has(codeOf(error)) || codeOf(error) === 'EOPNOTSUPP') return null;
    throw error;
  }
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Writes to a control file that must exist. */
export async function put(path: string, value: string): Promise<void> {
  await writeFile(path, value, { flag: 'r+' });
}

export async function makeGroup(path: string): Promise<void> {
  // Another daemon's `tidy` may remove an empty parent in between.
  for (let tries = 0; ; tries += 1) {
    try {
      await mkdir(path, { recursive: true });
      return;
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' || tries === 5) throw error;
    }
  }
}

export async function subgroups(path: string): Promise<string[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (GONE.has(codeOf(error))) return [];
    throw error;
  }
}

export async function groupPids(path: string): Promise<number[]> {
  return pidList((await readOrNull(join(path, 'cgroup.procs'))) ?? '');
}

/** Removes an empty group; false when it still holds something. */
export async function removeGroup(path: string): Promise<boolean> {
  try {
    await rmdir(path);
    return true;
  } catch (error) {
    if (GONE.has(codeOf(error))) return true;
    if (codeOf(error) === 'EBUSY' || codeOf(error) === 'ENOTEMPTY') return false;
    throw error;
  }
}

/** Repeats `attempt` until it says true. @throws after 10 s */
export async function until(what: string, attempt: () => Promise<boolean>): Promise<void> {
  for (let waitMs = 1, waitedMs = 0; !(await attempt()); waitMs = Math.min(waitMs * 2, 50)) {
    if (waitedMs > 10_000) throw new Error(`${what} took longer than 10 s`);
    await sleep(waitMs);
    waitedMs += waitMs;
  }
}
