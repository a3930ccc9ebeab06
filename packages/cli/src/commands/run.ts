import { fstatSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { CocoreClient } from '@cocore/client';
import {
  CocoreError,
  type ExecutionCreateInput,
  type ExecutionRecord,
  type InputFile,
  MAX_BLOB_BYTES,
  MAX_INLINE_FILES_BYTES,
  MAX_INLINE_STDIN_BYTES,
  toBase64,
} from '@cocore/protocol';
import { Command, Option } from 'commander';
import { connect } from '../context.ts';
import { exitCodeOf } from '../exit-code.ts';
import { followOutput, type Sinks } from '../follow.ts';
import { plain, printJson } from '../print.ts';
import { type QueueOptions, queueingOf, withQueueing } from '../queueing.ts';
import { type RetryOptions, retriesOf, withRetries } from '../retries.ts';
import { durationMs, environment, sizeBytes } from '../units.ts';
import { sayWhyItWaits } from '../waiting.ts';
import { runBatch } from './run-batch.ts';

interface Options extends RetryOptions, QueueOptions {
  interactive?: true;
  detach?: true;
  json?: true;
  timeout?: number;
  outputLimit?: number;
  env?: Record<string, string>;
  idempotencyKey?: string;
  event?: string;
  file?: string[];
  result?: true;
  batch?: string;
  wait?: true;
}

/** Whether anything could come from standard input: a closed one has no file behind it. */
function hasStdin(interactive: boolean): boolean {
  try {
    fstatSync(0);
  } catch {
    return false;
  }
  return !process.stdin.isTTY || interactive;
}

async function readStdin(): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > MAX_BLOB_BYTES) {
      throw new CocoreError('input_too_large', `standard input is longer than ${MAX_BLOB_BYTES} bytes`);
    }
  }
  return Uint8Array.from(Buffer.concat(chunks));
}

type Input = Pick<ExecutionCreateInput, 'stdin' | 'event'>;

async function eventText(source: string): Promise<string> {
  if (!source.startsWith('@')) return source;
  if (source === '@-') return Buffer.from(await readStdin()).toString('utf8');
  try {
    return readFileSync(source.slice(1), 'utf8');
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${source.slice(1)} cannot be read`, { cause });
  }
}

/** Each `PATH`, or `NAME=PATH`: in the request while that has room, else uploaded before. */
async function filesOf(client: CocoreClient, given: readonly string[]): Promise<InputFile[]> {
  const files: InputFile[] = [];
  let room = MAX_INLINE_FILES_BYTES;
  for (const text of given) {
    const [, name = basename(text), path = text] = /^([\w][\w.-]*)=(.+)$/.exec(text) ?? [];
    const bytes = readInput(path);
    if (bytes.length <= room) files.push({ name, base64: toBase64(bytes) });
    else files.push({ name, blob: (await client.blobs.upload(bytes)).digest });
    room -= bytes.length <= room ? bytes.length : 0;
  }
  return files;
}

function readInput(path: string): Uint8Array<ArrayBuffer> {
  try {
    return Uint8Array.from(readFileSync(path));
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
}

/** `JSON`, `@FILE` or `@-`. */
async function eventOf(source: string): Promise<Input> {
  const text = await eventText(source);
  try {
    return { event: JSON.parse(text) as unknown };
  } catch (cause) {
    throw new CocoreError('usage', `--event is not JSON: ${(cause as Error).message}`, { cause });
  }
}

async function stdinSource(client: CocoreClient, interactive: boolean): Promise<Input> {
  if (!hasStdin(interactive)) return {};
  const bytes = await readStdin();
  if (bytes.length === 0) return {};
  if (bytes.length <= MAX_INLINE_STDIN_BYTES) return { stdin: { base64: toBase64(bytes) } };
  return { stdin: { blob: (await client.blobs.upload(bytes)).digest } };
}

/** The first Ctrl-C asks for a cancellation, as soon as the execution is known; the second leaves at once. */
class CancelOnSignal implements Disposable {
  readonly #client: CocoreClient;
  #id: string | null = null;
  #asked = false;

  constructor(client: CocoreClient) {
    this.#client = client;
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, this.#onSignal);
  }

  created(id: string): void {
    this.#id = id;
    if (this.#asked) this.#cancel(id);
  }

  readonly #onSignal = () => {
    if (this.#asked) process.exit(130);
    this.#asked = true;
    if (this.#id !== null) this.#cancel(this.#id);
  };

  #cancel(id: string): void {
    this.#client.executions.cancel(id).catch((error: unknown) => {
      process.stderr.write(`cocore: cannot cancel: ${plain(error instanceof Error ? error.message : String(error))}\n`);
    });
  }

  [Symbol.dispose](): void {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, this.#onSignal);
  }
}

function sayEnd(record: ExecutionRecord): void {
  const { stdout, stderr } = record.output;
  if (stdout.truncated || stderr.truncated) {
    process.stderr.write(`cocore: output was cut at ${record.outputLimitBytes} bytes\n`);
  }
  // The function's own exit code needs no words.
  if (record.state === 'success' || record.reason === 'exit_code') return;
  for (const line of record.error?.stack?.trimEnd().split('\n') ?? []) process.stderr.write(`${plain(line)}\n`);
  const message = record.message === null ? '' : `: ${plain(record.message)}`;
  process.stderr.write(`cocore: ${record.state} (${record.reason})${message}\n`);
}

/** What a handler returns is its output; a program has its own, and its result is asked for. */
const isHandler = async (client: CocoreClient, fn: string) => (await client.functions.get(fn)).handler !== null;

/** What the lines of a batch say for themselves. */
const OF_ONE_EXECUTION = [
  ...['interactive', 'detach', 'file', 'event', 'result', 'timeout', 'outputLimit', 'env'],
  ...['retries', 'retryOn', 'retryBackoff', 'priority', 'concurrencyKey', 'concurrencyLimit', 'queueTtl'],
];

export function runCommand(): Command {
  const command = new Command('run')
    .description('run a function; what follows its name goes to it as it is')
    .argument('[function]')
    .argument('[args...]')
    .passThroughOptions()
    .option('-i, --interactive', 'take standard input from a terminal too')
    .option('--detach', 'print the execution’s id and leave')
    .option(
      '--file <path>',
      'a file for its working directory, or NAME=PATH; may be given again',
      (text, before: string[] = []) => [...before, text],
    )
    .option('--event <json>', 'a JSON value as its standard input; @FILE reads it from a file, @- from standard input')
    .option('--result', 'print its result as JSON; what it prints itself goes to standard error')
    .option('--json', 'print the final record, with its output, and nothing else')
    .option('--timeout <duration>', 'how long it may run, such as 30s', durationMs)
    .option('--output-limit <size>', 'how much output is kept, such as 10MiB', sizeBytes)
    .option('--env <NAME=value>', 'a variable of its environment; may be given again', environment)
    .option('--idempotency-key <key>', 'the same key with the same input gives the same execution')
    .addOption(
      new Option(
        '--batch <file>',
        'run what each line of a file describes, a JSON object such as {"function": "add", "args": ["4", "9"]}, all or none; - reads standard input',
      ).conflicts(OF_ONE_EXECUTION),
    )
    .option('--wait', 'of a batch: wait for its end; the exit code is 0 when all have succeeded, else 1');
  return withQueueing(withRetries(command)).action(async (fn: string | undefined, args: string[], options: Options) => {
    const client = connect(process.env);
    if (options.batch !== undefined) {
      if (args.length > 0) throw new CocoreError('usage', 'the lines of a batch have their own arguments');
      return runBatch(client, fn, { ...options, batch: options.batch });
    }
    if (fn === undefined) throw new CocoreError('usage', 'give the name of a function, or --batch');
    if (options.wait === true)
      throw new CocoreError('usage', '--wait goes with --batch; without it the end is waited for');
    const { timeout, outputLimit, idempotencyKey } = options;
    const retries = retriesOf(options);
    const queueing = queueingOf(options);
    const input = await (options.event === undefined
      ? stdinSource(client, options.interactive === true)
      : eventOf(options.event));
    const files = await filesOf(client, options.file ?? []);
    using cancel = new CancelOnSignal(client);
    const created = await client.executions.create(fn, {
      args,
      env: options.env ?? {},
      ...input,
      files,
      ...(timeout === undefined ? {} : { timeoutMs: timeout }),
      ...(outputLimit === undefined ? {} : { outputLimitBytes: outputLimit }),
      ...(retries === undefined ? {} : { retries }),
      ...queueing,
      ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
    });
    cancel.created(created.id);
    if (options.detach === true) {
      process.stdout.write(`${created.id}\n`);
      return;
    }
    using _waits = options.json === true ? null : sayWhyItWaits(client, created.id);
    const stdout = options.result === true ? process.stderr : process.stdout;
    const sinks: Sinks = options.json === true ? {} : { stdout, stderr: process.stderr };
    const record = await followOutput(client, created.id, sinks);
    if (options.json === true) printJson(await client.executions.get(created.id, { waitMs: 0 }));
    else {
      if (record.result !== null && (options.result === true || (await isHandler(client, fn))))
        printJson(record.result.value);
      sayEnd(record);
    }
    process.exitCode = exitCodeOf(record);
  });
}
