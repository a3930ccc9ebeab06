import { CocoreError, IsolationClass } from '@cocore/protocol';
import { readFileSync } from 'node:fs';
import { homedir, hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { LeaseWish } from './capacity/lease.ts';
import { DRIVER_NAMES } from './drivers.ts';

export const ISOLATIONS = ['auto', ...DRIVER_NAMES] as const;
export type Isolation = (typeof ISOLATIONS)[number];

/** What the daemon was asked to be: everything that comes from its arguments and environment. */
export interface WorkerConfig {
  readonly server: string;
  readonly insecure: boolean;
  /** PEM. */
  readonly ca: string | undefined;
  readonly dataDir: string;
  readonly artifacts: string;
  readonly joinToken: string | null;
  readonly isolation: Isolation;
  /** The weakest class that `auto` may choose. */
  readonly atLeast: IsolationClass;
  /** Whether sandboxes may wait, ready, in memory that is leased and free. */
  readonly pool: boolean;
  readonly lease: LeaseWish;
  readonly name: string;
}

/** `--probe`: say what this host can do, and stop. */
export interface ProbeConfig {
  readonly artifacts: string;
}

export type Command =
  { readonly verb: 'run'; readonly config: WorkerConfig } | { readonly verb: 'probe'; readonly config: ProbeConfig };

const usage = (message: string, cause?: unknown) => new CocoreError('usage', message, { cause });

/** Where the set-up writes `current.json`. */
export function defaultArtifacts(env: NodeJS.ProcessEnv): string {
  const cache = env['COCORE_CACHE_DIR'] ?? join(env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'cocore');
  return join(cache, 'current.json');
}

/**
 * @throws CocoreError `usage` or `file_unreadable`
 */
export function parseCommand(argv: readonly string[], env: NodeJS.ProcessEnv): Command {
  const { values } = parse(argv);
  const artifacts = resolve(values.artifacts ?? defaultArtifacts(env));
  if (values.probe === true) return { verb: 'probe', config: { artifacts } };
  const isolation = ISOLATIONS.find((one) => one === (values.isolation ?? 'auto'));
  if (isolation === undefined) throw usage(`--isolation must be one of ${ISOLATIONS.join(', ')}`);
  const atLeast = IsolationClass.safeParse(values['at-least'] ?? 'gvisor');
  if (!atLeast.success) throw usage(`--at-least must be one of ${IsolationClass.options.join(', ')}`);
  const pool = values.pool ?? 'auto';
  if (pool !== 'auto' && pool !== 'off') throw usage('--pool must be auto or off');
  const name = values.name ?? hostname();
  if (name.length === 0 || name.length > 128) throw usage('--name must be 1 to 128 characters');
  const config: WorkerConfig = {
    server: required(values.server, '--server'),
    dataDir: directory(required(values['data-dir'], '--data-dir')),
    insecure: values.insecure ?? false,
    ca: values['ca-file'] === undefined ? undefined : readText(values['ca-file']),
    artifacts,
    joinToken: values['join-token-file'] === undefined ? null : readText(values['join-token-file']).trim(),
    isolation,
    atLeast: atLeast.data,
    pool: pool === 'auto',
    lease: {
      cpus: count(values.cpus, '--cpus'),
      memoryMiB: count(values.memory, '--memory'),
      diskMiB: count(values.disk, '--disk'),
    },
    name,
  };
  return { verb: 'run', config };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      strict: true,
      allowPositionals: false,
      options: {
        server: { type: 'string' },
        'data-dir': { type: 'string' },
        artifacts: { type: 'string' },
        'join-token-file': { type: 'string' },
        isolation: { type: 'string' },
        'at-least': { type: 'string' },
        pool: { type: 'string' },
        cpus: { type: 'string' },
        memory: { type: 'string' },
        disk: { type: 'string' },
        name: { type: 'string' },
        insecure: { type: 'boolean' },
        'ca-file': { type: 'string' },
        probe: { type: 'boolean' },
      },
    });
  } catch (cause) {
    throw usage(cause instanceof Error ? cause.message : 'the arguments cannot be read', cause);
  }
}

function required(value: string | undefined, flag: string): string {
  if (value === undefined || value === '') throw usage(`${flag} is missing`);
  return value;
}

/** The launcher's lists of paths are divided by newlines. */
function directory(path: string): string {
  if (path.includes('\n')) throw usage('--data-dir must not contain a newline');
  return resolve(path);
}

function count(value: string | undefined, flag: string): number | undefined {
  if (value === undefined) return undefined;
  if (!/^[1-9]\d{0,8}$/.test(value)) throw usage(`${flag} must be a whole number from 1`);
  return Number(value);
}

/** A file's text; `-` is standard input. */
function readText(path: string): string {
  try {
    return readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path === '-' ? 'standard input' : path} cannot be read`, { cause });
  }
}
