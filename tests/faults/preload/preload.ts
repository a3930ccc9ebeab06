import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('faults.c', import.meta.url));

/** As in `faults.c`. */
const BYTES = 16;

/** Builds the library. */
export function buildPreload(path: string): void {
  const flags = ['-std=gnu17', '-shared', '-fPIC', '-O2', '-Wall', '-Wextra', '-Werror'];
  execFileSync('cc', [...flags, '-o', path, SOURCE], { stdio: ['ignore', 'inherit', 'inherit'] });
}

/** The disk and the wall clock of one daemon over all its lives, in working order until a test says otherwise. */
export class HostFaults {
  readonly env: Readonly<Record<string, string>>;
  readonly #path: string;

  constructor(library: string, path: string) {
    this.#path = path;
    this.env = { LD_PRELOAD: library, COCORE_FAULTS: path };
    writeFileSync(path, Buffer.alloc(BYTES));
  }

  set({ sync = false, full = false, wallAheadMs = 0 }: { sync?: boolean; full?: boolean; wallAheadMs?: number }): void {
    const bytes = Buffer.alloc(BYTES);
    bytes.writeInt32LE(sync ? constants.errno.EIO : 0, 0);
    bytes.writeInt32LE(full ? constants.errno.ENOSPC : 0, 4);
    bytes.writeBigInt64LE(BigInt(wallAheadMs), 8);
    // In place: the daemons have the file mapped.
    const file = openSync(this.#path, 'r+');
    writeSync(file, bytes, 0, BYTES, 0);
    closeSync(file);
  }
}
