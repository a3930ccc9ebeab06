import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** Resolves when the file and its name are on the disk, whole. When it rejects, what was there before is. */
export async function placeDurably(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `${name}.new`);
  try {
    await using file = await open(temporary, 'w', 0o600);
    await file.writeFile(text);
    await file.sync();
    await rename(temporary, join(directory, name));
    await syncDirectory(directory);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** The names in it are on the disk. */
export async function syncDirectory(path: string): Promise<void> {
  await using names = await open(path, 'r');
  await names.sync();
}
