import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { CocoreError } from '@cocore/protocol';
import { DataDir } from '../../data-dir.ts';
import { placeOf, readDatabaseUrl } from '../postgres/database-url.ts';
import { type Moved, type MoveProgress, moveStore } from './move-store.ts';

/** What is said again of a table at the earliest. */
const SAY_MS = 2_000;

const INTERRUPTED = 130;

interface Output {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/**
 * `migrate-store` as a process: how far it is on standard error, what was moved on standard output.
 *
 * @returns the exit code
 * @throws CocoreError as `moveStore` does, and `data_dir_in_use`
 */
export async function migrateStoreCommand(
  argv: readonly string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<number> {
  const values = parse(argv);
  const databaseUrl = readDatabaseUrl(values['database-url'], env);
  if (databaseUrl === null) throw usage('--database-url (or COCORE_DATABASE_URL) is missing: where the store moves to');
  if (values['data-dir'] === undefined) throw usage('--data-dir is missing: where the store is');
  const path = resolve(values['data-dir']);
  if (!existsSync(path)) throw usage(`${path} does not exist`);
  using dataDir = DataDir.open(path);
  const isJson = values.json === true;
  const progress = new ProgressPrinter(process.stderr);
  const startedAt = performance.now();
  try {
    const moved = await moveStore({
      dataDir,
      databaseUrl,
      nowMs: Date.now(),
      signal,
      onProgress: (one) => (isJson ? undefined : progress.say(one)),
    });
    const elapsedMs = Math.round(performance.now() - startedAt);
    process.stdout.write(
      isJson ? `${JSON.stringify({ ...moved, elapsedMs }, null, 2)}\n` : summary(moved, path, placeOf(databaseUrl)),
    );
    return 0;
  } catch (error) {
    if (!signal.aborted) throw error;
    process.stderr.write('interrupted: nothing was moved\n');
    return INTERRUPTED;
  } finally {
    progress.end();
  }
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      strict: true,
      options: { 'data-dir': { type: 'string' }, 'database-url': { type: 'string' }, json: { type: 'boolean' } },
    }).values;
  } catch (cause) {
    throw usage(cause instanceof Error ? cause.message : String(cause));
  }
}

const usage = (message: string) => new CocoreError('usage', message);
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const count = (rows: number) => `${rows.toLocaleString('en')} row${rows === 1 ? '' : 's'}`;

function summary({ tables, outputFileBytes }: Moved, path: string, place: string): string {
  const rows = Object.values(tables).reduce((sum, one) => sum + one, 0);
  return [
    `${count(rows)} of ${Object.keys(tables).length} tables are in ${place}, ${mib(outputFileBytes)} of output files among them; all were compared.`,
    `${path} is as it was, and still needed: it has the server’s id, its keys and its blobs.`,
    'Start the server with it and --database-url (or COCORE_DATABASE_URL). When all is well, cocore.db* and output in it may go.',
    '',
  ].join('\n');
}

/** A line that changes on a terminal; elsewhere a line for each table, and one now and then while it takes long. */
class ProgressPrinter {
  readonly #out: Output;
  #saidAt = performance.now();
  #isLineOpen = false;

  constructor(out: Output) {
    this.#out = out;
  }

  say({ table, step, rows, bytes }: MoveProgress): void {
    const line = `${table}: ${count(rows)}, ${mib(bytes)}${step === 'comparing' ? ', comparing' : ''}`;
    const isDone = step === 'done';
    if (isDone && rows === 0) return;
    if (this.#out.isTTY === true) {
      this.#out.write(`\r\u001b[K${line}${isDone ? '\n' : ''}`);
      this.#isLineOpen = !isDone;
    } else if (isDone || performance.now() - this.#saidAt >= SAY_MS) {
      this.#out.write(`${line}\n`);
      this.#saidAt = performance.now();
    }
  }

  /** Leaves the terminal at the beginning of an empty line. */
  end(): void {
    if (this.#isLineOpen) this.#out.write('\n');
    this.#isLineOpen = false;
  }
}
