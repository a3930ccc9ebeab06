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
