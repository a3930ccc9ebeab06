import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { CocoreError, DEFAULT_ISOLATION, IsolationClass } from '@cocore/protocol';
import { z } from 'zod';
import { readS3Options, type S3Options } from './s3/options.ts';
import type { ServerOptions, TlsChoice, WorkerTrustChoice } from './server.ts';
import { readDatabaseUrl } from './store/postgres/database-url.ts';
import { durationMs, sizeBytes } from './units.ts';

/** The part of `current.json` that the control server needs. */
const Artifacts = z.object({ baseImage: z.string().min(1), nodeImage: z.string().min(1) });

export type Config = Omit<ServerOptions, 'log' | 'clock' | 'limits'> & { readonly logLevel: string };

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/**
 * What the command line and the environment ask for.
 *
 * @throws CocoreError `usage`, `insecure_refused`, `artifact_missing`
 */
export function readConfig(argv: readonly string[], env: NodeJS.ProcessEnv): Config {
  const values = parse(argv);
  const host = values.host;
  const port = Number(values.port);
  if (!/^\d{1,5}$/.test(values.port) || port > 65_535) throw usage(`--port ${values.port} is not a port`);
  const tls = tlsOf(values);
  if (tls.kind === 'none' && !isLoopback(host) && values.insecure !== true) {
    throw new CocoreError(
      'insecure_refused',
      `listening on ${host} without TLS would send keys and output in the clear`,
    );
  }
  const defaultIsolation = IsolationClass.safeParse(values['default-isolation']);
  if (!defaultIsolation.success) {
    throw usage(`--default-isolation must be one of ${IsolationClass.options.join(', ')}`);
  }
  const logLevel = env['COCORE_LOG_LEVEL'] ?? 'info';
  if (!LOG_LEVELS.includes(logLevel)) throw usage(`COCORE_LOG_LEVEL must be one of ${LOG_LEVELS.join(', ')}`);
  const artifacts = readArtifacts(required(values.artifacts, '--artifacts'));
  return {
    dataDir: resolve(required(values['data-dir'], '--data-dir')),
    host,
    port,
    allowHosts: values['allow-host'] ?? [],
    tls,
    databaseUrl: readDatabaseUrl(values['database-url'], env),
    s3: s3Of(values, 'blob-store', env),
    outputS3: s3Of(values, 'output-store', env),
    builtInImagePaths: { base: artifacts.baseImage, node: artifacts.nodeImage },
    recipesDirectory: values.runtimes === undefined ? null : resolve(values.runtimes),
    loopbackRegistries: values['loopback-registries'] === true,
    defaultIsolation: defaultIsolation.data,
    restored: values.restored === true,
    retention: {
      maxAgeMs: durationMs(values['keep-executions'], '--keep-executions'),
      maxOutputBytes: sizeBytes(values['keep-output'], '--keep-output'),
    },
    workerTrust: workerTrustOf(values['worker-trust']),
    idempotencyTtlMs: durationMs(values['idempotency-ttl'], '--idempotency-ttl'),
    logLevel,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      strict: true,
      options: {
        'data-dir': { type: 'string' },
        artifacts: { type: 'string' },
        runtimes: { type: 'string' },
        host: { type: 'string', default: '127.0.0.1' },
        port: { type: 'string', default: '0' },
        'allow-host': { type: 'string', multiple: true },
        'tls-cert': { type: 'string' },
        'tls-key': { type: 'string' },
        'tls-self': { type: 'boolean' },
        insecure: { type: 'boolean' },
        'blob-store': { type: 'string' },
        'output-store': { type: 'string' },
        'database-url': { type: 'string' },
        'loopback-registries': { type: 'boolean' },
        'default-isolation': { type: 'string', default: DEFAULT_ISOLATION },
        restored: { type: 'boolean' },
        'keep-executions': { type: 'string', default: '30d' },
        'keep-output': { type: 'string', default: '10GiB' },
        'idempotency-ttl': { type: 'string', default: '24h' },
        'worker-trust': { type: 'string', default: 'full' },
      },
    }).values;
  } catch (cause) {
    throw new CocoreError('usage', cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

function s3Of(
  values: ReturnType<typeof parse>,
  flag: 'blob-store' | 'output-store',
  env: NodeJS.ProcessEnv,
): S3Options | null {
  const place = values[flag];
  return place === undefined ? null : readS3Options(`--${flag}`, place, env);
}

function workerTrustOf(text: string): WorkerTrustChoice {
  if (text === 'full' || text === 'earned') return text;
  throw usage(`--worker-trust ${text} is neither full nor earned`);
}

function tlsOf(values: ReturnType<typeof parse>): TlsChoice {
  const certPath = values['tls-cert'];
  const keyPath = values['tls-key'];
  const hasFiles = certPath !== undefined || keyPath !== undefined;
  if (hasFiles && values['tls-self'] === true) throw usage('--tls-self goes without --tls-cert and --tls-key');
  if (values['tls-self'] === true) return { kind: 'self' };
  if (!hasFiles) return { kind: 'none' };
  return { kind: 'files', certPath: required(certPath, '--tls-cert'), keyPath: required(keyPath, '--tls-key') };
}

function readArtifacts(path: string): z.infer<typeof Artifacts> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CocoreError('artifact_missing', `${path} cannot be read`, { cause });
  }
  try {
    return Artifacts.parse(JSON.parse(text));
  } catch (cause) {
    throw new CocoreError('artifact_missing', `${path} does not name the base images`, { cause });
  }
}

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
const usage = (message: string) => new CocoreError('usage', message);

function required(value: string | undefined, name: string): string {
  if (value === undefined || value === '') throw usage(`${name} is missing`);
  return value;
}
