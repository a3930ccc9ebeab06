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
  /** Whether sandboxes may outlive the daemon, for its next life to take them up. */
  readonly recover: boolean;
  readonly lease: LeaseWish;
  readonly name: string;
  /** Null: no function has a network here. Connections of those that have leave by this host, or through `proxy`. */
  readonly egress: EgressConfig | null;
}

export interface EgressConfig {
  readonly proxy: string | null;
  /** A host that can give no network is refused; else the worker goes on without, and says why. */
  readonly isRequired: boolean;
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
  const recover = values.recover ?? 'auto';
  if (recover !== 'auto' && recover !== 'off') throw usage('--recover must be auto or off');
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
    recover: recover === 'auto',
    lease: {
      cpus: count(values.cpus, '--cpus'),
      memoryMiB: count(values.memory, '--memory'),
      diskMiB: count(values.disk, '--disk'),
    },
    name,
    egress: egressOf(
      values.egress === true ? 'on' : values['egress-auto'] === true ? 'auto' : (env['COCORE_EGRESS'] ?? ''),
      values['egress-proxy'] ?? env['COCORE_EGRESS_PROXY'],
    ),
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
        recover: { type: 'string' },
        cpus: { type: 'string' },
        memory: { type: 'string' },
        disk: { type: 'string' },
        name: { type: 'string' },
        insecure: { type: 'boolean' },
        'ca-file': { type: 'string' },
        egress: { type: 'boolean' },
        'egress-auto': { type: 'boolean' },
        'egress-proxy': { type: 'string' },
        probe: { type: 'boolean' },
      },
    });
  } catch (cause) {
    throw usage(cause instanceof Error ? cause.message : 'the arguments cannot be read', cause);
  }
}

/** A proxy without `--egress` is refused: who gives one thinks that there is egress. */
function egressOf(mode: string, proxy: string | undefined): WorkerConfig['egress'] {
  if (!['', 'off', 'on', 'auto'].includes(mode)) throw usage('COCORE_EGRESS must be on, auto or off');
  const isRequired = mode === 'on';
  const isOn = isRequired || mode === 'auto';
  if (proxy === undefined || proxy === '') return isOn ? { proxy: null, isRequired } : null;
  if (!isOn) throw usage('--egress-proxy is for --egress');
  const url = URL.parse(proxy);
  if (url === null || !/^https?:$/.test(url.protocol) || url.pathname !== '/') {
    throw usage('--egress-proxy must be http://HOST:PORT or https://HOST:PORT');
  }
  return { proxy, isRequired };
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
