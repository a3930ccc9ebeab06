import { readFileSync } from 'node:fs';
import type { CocoreClient } from '@cocore/client';
import {
  BatchEntry,
  type BatchEntryInput,
  type BatchRecord,
  CocoreError,
  invalidRequest,
  isTerminal,
  MAX_BATCH_BYTES,
  MAX_BATCH_EXECUTIONS,
} from '@cocore/protocol';
import { plain, printJson } from '../print.ts';

export interface BatchOptions {
  /** JSON lines; `-` for standard input. */
  readonly batch: string;
  readonly wait?: true;
  readonly json?: true;
  readonly idempotencyKey?: string;
}

const NOT_ALL_SUCCEEDED = 1;

/**
 * Asks for what the lines of a file describe, and prints the ids in their order. With `wait`, the exit code says whether all have succeeded.
 *
 * @param fn the function of lines that name none
 */
export async function runBatch(client: CocoreClient, fn: string | undefined, options: BatchOptions): Promise<void> {
  const entries = entriesOf(readLines(options.batch), fn);
  const { idempotencyKey } = options;
  const created = await client.batches.create(entries, idempotencyKey === undefined ? {} : { idempotencyKey });
  if (options.json !== true) {
    process.stderr.write(`cocore: batch ${created.id}\n`);
    for (const id of created.executionIds) process.stdout.write(`${id}\n`);
  }
  if (options.wait !== true) {
    if (options.json === true) printJson(created);
    return;
  }
  const ended = await client.batches.end(created.id);
  if (options.json === true) printJson(ended);
  else await sayEnd(client, ended);
  if (ended.counts.success < ended.executionIds.length) process.exitCode = NOT_ALL_SUCCEEDED;
}

function readLines(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
  if (Buffer.byteLength(text) > MAX_BATCH_BYTES) {
    throw new CocoreError('input_too_large', `a batch has at most ${MAX_BATCH_BYTES} bytes; part it`);
  }
  return text.split('\n');
}

/** Empty lines count as lines, and are no entries. @throws CocoreError that names the line */
export function entriesOf(lines: readonly string[], fn: string | undefined): BatchEntryInput[] {
  const entries: BatchEntryInput[] = [];
  for (const [index, line] of lines.entries()) {
    if (line.trim() !== '') entries.push(entryOf(line, `line ${index + 1}`, fn));
  }
  if (entries.length === 0) throw new CocoreError('usage', 'the batch has no lines');
  if (entries.length <= MAX_BATCH_EXECUTIONS) return entries;
  throw new CocoreError('usage', `a batch has at most ${MAX_BATCH_EXECUTIONS} lines, not ${entries.length}; part it`);
}

function entryOf(line: string, where: string, fn: string | undefined): BatchEntryInput {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new CocoreError('invalid_json', `${where} is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CocoreError('invalid_request', `${where} is not an object`);
  }
  const entry: unknown = fn === undefined ? value : { function: fn, ...value };
  const parsed = BatchEntry.safeParse(entry);
  if (!parsed.success) throw invalidRequest(parsed.error, where);
  // As it was given: what the server takes for granted, it decides.
  return entry as BatchEntryInput;
}

/** What has not succeeded by name, and how many of each. */
async function sayEnd(client: CocoreClient, { id, counts, executionIds }: BatchRecord): Promise<void> {
  if (counts.success < executionIds.length) {
    for await (const record of recordsOf(client, id)) {
      if (record.state === 'success' || !isTerminal(record.state)) continue;
      const message = record.message === null ? '' : `: ${plain(record.message)}`;
      process.stderr.write(`cocore: ${record.id} ${record.state} (${record.reason})${message}\n`);
    }
  }
  const said = Object.entries(counts).filter(([, count]) => count > 0);
  process.stderr.write(`cocore: ${said.map(([state, count]) => `${count} ${state}`).join(', ')}\n`);
}

async function* recordsOf(client: CocoreClient, batch: string) {
  let cursor: string | null = null;
  do {
    const page = await client.executions.list({ batch, limit: 200, ...(cursor === null ? {} : { cursor }) });
    yield* page.executions;
    cursor = page.next;
  } while (cursor !== null);
}
