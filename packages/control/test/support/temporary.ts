import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Temporary extends Disposable {
  readonly path: string;
}

export function temporaryDirectory(): Temporary {
  const path = mkdtempSync(join(tmpdir(), 'cocore-control-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** The path of a database that is not there yet, in a directory of its own. */
export function temporaryDatabase(): Temporary {
  const directory = temporaryDirectory();
  return { path: join(directory.path, 'db'), [Symbol.dispose]: () => directory[Symbol.dispose]() };
}
