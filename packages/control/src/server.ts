import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import {
  type BuiltInImage,
  CocoreError,
  DEFAULT_RETAINED_OUTPUT_BYTES,
  DEFAULT_RETENTION_MS,
  type IsolationClass,
} from '@cocore/protocol';
import type { Logger } from 'pino';
import { DEFAULT_LIMITS, type Limits } from './admission.ts';
import { Authenticator, makeKey } from './auth/secrets.ts';
import { type Certificate, selfSignedCertificate } from './auth/self-signed.ts';
import { ServerNames } from './auth/server-names.ts';
import { BlobStore } from './blobs/blob-store.ts';
import { BlobSweeper } from './blobs/blob-sweeper.ts';
import { DiskBackend } from './blobs/disk-backend.ts';
import { S3Backend } from './blobs/s3-backend.ts';
import type { S3Options } from './s3/options.ts';
import { type Clock, SYSTEM_CLOCK } from './clock.ts';
import { CodeImager } from './code/code-image.ts';
import { DataDir } from './data-dir.ts';
import { RegistryImages } from './deploy/registry-images.ts';
import { Dispatcher } from './dispatch/dispatcher.ts';
import { Sweeper } from './dispatch/sweeper.ts';
import { EventHub } from './events.ts';
import { AttemptReports } from './gateway/attempt-reports.ts';
import { Gateway } from './gateway/gateway.ts';
import { buildApp } from './http/app.ts';
import { allRoutes } from './http/routes.ts';
import { Incarnation } from './incarnation.ts';
import { ImageImporter } from './importer/image-importer.ts';
import { Metrics } from './metrics.ts';
import { OutputArchive } from './output/output-archive.ts';
import { OutputArchiver } from './output/output-archiver.ts';
import { OutputStore } from './output/output-store.ts';
import { RecordSweeper } from './record-sweeper.ts';
import { BuiltInImages } from './runtimes/built-in-images.ts';
import { Recipes } from './runtimes/recipes.ts';
import { Cluster } from './servers/cluster.ts';
import { openPostgresStore } from './store/postgres/postgres-store.ts';
import { openSqliteStore } from './store/sqlite/sqlite-store.ts';
import type { Retention, Store } from './store/store.ts';

export type TlsChoice =
  | { readonly kind: 'none' }
  | { readonly kind: 'self' }
  | { readonly kind: 'files'; readonly certPath: string; readonly keyPath: string };

/** `full`: a worker may have as many attempts as it has room for from the first. `earned`: a new one begins with two, and has more as they succeed. */
export type WorkerTrustChoice = 'full' | 'earned';

export interface ServerOptions {
  readonly dataDir: string;
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly allowHosts: readonly string[];
  readonly tls: TlsChoice;
  /** A PostgreSQL database that records and output are kept in; null for the data directory. */
  readonly databaseUrl?: string | null;
  /** Where blobs are kept; null for the data directory. */
  readonly s3?: S3Options | null;
  /** Where output of executions that have ended is taken to; null where it stays. */
  readonly outputS3?: S3Options | null;
  /** The images that source code runs in, erofs files. */
  readonly builtInImagePaths: Readonly<Record<BuiltInImage, string>>;
  /** A directory of recipes, beside those that are built in. */
  readonly recipesDirectory?: string | null;
  /** Whether images may come from registries on this host's loopback; the default is no. */
  readonly loopbackRegistries?: boolean;
  /** What a function requires that was deployed without a word about it. */
  readonly defaultIsolation: IsolationClass;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly limits?: Limits;
  /** How long idempotency keys hold; a day if not given. */
  readonly idempotencyTtlMs?: number;
  /** The data directory came out of a backup. */
  readonly restored?: boolean;
  readonly retention?: Partial<Retention>;
  /** `full` if not given. */
  readonly workerTrust?: WorkerTrustChoice;
  readonly handshakeTimeoutMs?: number;
}

export interface ControlServer extends AsyncDisposable {
  /** `http(s)://HOST:PORT` */
  readonly url: string;
  readonly serverId: string;
  /** Of the store. */
  readonly incarnation: string;
  readonly sweeper: Sweeper;
  /** Null where no other may use the store. */
  readonly cluster: Cluster | null;
}

const DEFAULT_RETENTION: Retention = {
  maxAgeMs: DEFAULT_RETENTION_MS,
  maxOutputBytes: DEFAULT_RETAINED_OUTPUT_BYTES,
};

const VERSION = (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string })
  .version;

/**
 * Builds the control server and starts to serve. What it holds is released in reverse order when it is disposed.
 *
 * @throws CocoreError `data_dir_in_use`, `database_unavailable`, `database_unfit`, `artifact_missing`, `address_in_use`, `file_unreadable`, `recipe_invalid`, `not_ready`, `usage`
 */
export async function startServer(options: ServerOptions): Promise<ControlServer> {
  const { log } = options;
  const clock = options.clock ?? SYSTEM_CLOCK;
  await using scope = new AsyncDisposableStack();
  const recipes = Recipes.load(options.recipesDirectory ?? null);
  const dataDir = scope.use(DataDir.open(options.dataDir));
  const { databaseUrl = null } = options;
  const opening =
    databaseUrl === null
      ? openSqliteStore({ path: dataDir.file('cocore.db'), now: clock.nowMs })
      : openPostgresStore({ url: databaseUrl, now: clock.nowMs, log });
  const store = scope.adopt(await opening, (open) => open.close());
  const { s3 = null } = options;
  const hub = new EventHub();
  const facts = { serverId: randomUUID(), directoryId: dataDir.serverId(), blobs: placeOfBlobs(s3, dataDir) };
  const cluster =
    databaseUrl === null ? null : scope.use(await Cluster.join({ store, hub, facts, clock, log, url: databaseUrl }));
  const server = cluster === null ? null : facts;
  const incarnation = await Incarnation.open({ dataDir, store, server, log }, options.restored ?? false);
  const { serverId } = incarnation;
  await ensureOperatorKey(dataDir, store, clock);

  const backend = s3 === null ? new DiskBackend(dataDir.file('blobs')) : scope.use(new S3Backend(s3));
  // A directory is one server's.
  const isShared = cluster !== null && s3 !== null;
  const spare = isShared ? (digest: string) => store.spareBlob(digest) : null;
  const blobs = new BlobStore(dataDir.file('blobs'), backend, spare);
  await blobs.open(serverId);
  const builtInImages = new BuiltInImages(blobs, options.builtInImagePaths);
  const importer = scope.use(new ImageImporter({ directory: dataDir.file('images') }));
  await importer.open();
  const certificate = await certificateOf(options, dataDir, clock);
  const names = new ServerNames(options.host, options.allowHosts);
  const metrics = new Metrics();
  const { outputS3 = null } = options;
  const archive = outputS3 === null ? null : scope.use(new OutputArchive(outputS3));
  await archive?.open(serverId);
  // Another server, which has not this directory, may be asked for it.
  const output = new OutputStore(databaseUrl === null ? dataDir.file('output') : null, store, archive);
  const dispatcher = new Dispatcher({
    store,
    output,
    hub,
    clock,
    metrics,
    log,
    others: cluster,
    trustIsEarned: options.workerTrust === 'earned',
  });
  await dispatcher.start(cluster === null ? null : await store.claimWorkers(facts.serverId, []));
  metrics.observe('cocore_workers_online', 'Workers with a session', () => dispatcher.links.size);
  metrics.observe('cocore_workers_backed_off', 'Workers that get little or nothing after failures', () =>
    dispatcher.trust.backedOffCount((workerId) => dispatcher.links.has(workerId)),
  );
  metrics.observe('cocore_attempts_queued', 'Attempts that wait for a worker', () => dispatcher.scheduler.queuedCount);
  metrics.observe('cocore_workers_unsent_bytes', 'Sent to workers, and not taken by the network', () =>
    [...dispatcher.links.values()].reduce((sum, { unsentBytes }) => sum + unsentBytes, 0),
  );
  metrics.observe('cocore_attempts_live', 'Attempts that a worker has', () => dispatcher.live.size);

  const sweeper = new Sweeper({ store, dispatcher, hub, clock, log });
  cluster?.begin(dispatcher, sweeper);
  const reports = new AttemptReports({ store, dispatcher, hub, clock, metrics, log });
  const gateway = new Gateway({
    store,
    serverId,
    life: server?.serverId ?? null,
    incarnation: incarnation.id,
    names,
    clock,
    dispatcher,
    sweeper,
    reports,
    metrics,
    log,
    ...(options.handshakeTimeoutMs === undefined ? {} : { timeoutMs: options.handshakeTimeoutMs }),
  });

  const stopping = new AbortController();
  const authenticator = new Authenticator(store);
  const routes = allRoutes({
    store,
    authenticator,
    dispatcher,
    output,
    blobs,
    temporaryDirectory: dataDir.file('tmp'),
    imager: new CodeImager(dataDir.file('tmp'), blobs),
    builtInImages,
    recipes,
    images: new RegistryImages(importer, { allowLoopback: options.loopbackRegistries ?? false }),
    defaultIsolation: options.defaultIsolation,
    gateway,
    hub,
    clock,
    metrics,
    limits: limitsOf(options),
    log,
    serverId,
    version: VERSION,
    certificateSha256: certificate?.sha256 ?? null,
  });
  const app = buildApp({ authenticator, names, log, tls: certificate, stopping: stopping.signal }, routes);
  scope.defer(() => app.close());
  // An upgraded connection would keep the server from closing.
  scope.use(gateway);
  scope.defer(() => dispatcher.stop());
  gateway.attach(app.server);
  await app.listen({ host: options.host, port: options.port }).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'EADDRINUSE') throw cause;
    throw new CocoreError('address_in_use', `${options.host}:${options.port} is taken`, { cause });
  });
  const { port } = app.server.address() as AddressInfo;
  names.port = port;
  const blobSweeper = new BlobSweeper({ store, blobs, clock, log, isShared });
  const recordSweeper = new RecordSweeper({
    store,
    output,
    retention: { ...DEFAULT_RETENTION, ...options.retention },
    log,
  });
  const directory = dataDir.file('archiving');
  const archiver = archive === null ? null : new OutputArchiver({ store, output, archive, directory, log });
  const sweepers = [sweeper, blobSweeper, recordSweeper, incarnation, ...(archiver === null ? [] : [archiver])];
  const sweeping = Promise.all(sweepers.map((one) => one.run(stopping.signal)));
  scope.defer(async () => {
    stopping.abort();
    await sweeping;
  });

  const owned = scope.move();
  const host = options.host.includes(':') ? `[${options.host}]` : options.host;
  return {
    url: `${certificate === null ? 'http' : 'https'}://${host}:${port}`,
    serverId,
    incarnation: incarnation.id,
    sweeper,
    cluster,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Servers of one database must have the same. */
function placeOfBlobs(s3: S3Options | null, dataDir: DataDir): string {
  if (s3 === null) return `the data directory ${dataDir.serverId()}`;
  return `s3://${s3.bucket}/${s3.prefix} at ${s3.endpoint.host}`;
}

function limitsOf({ limits = DEFAULT_LIMITS, idempotencyTtlMs }: ServerOptions): Limits {
  return idempotencyTtlMs === undefined ? limits : { ...limits, idempotencyTtlMs };
}

async function certificateOf(
  { tls, host }: ServerOptions,
  dataDir: DataDir,
  clock: Clock,
): Promise<Certificate | { cert: string; key: string; sha256?: undefined } | null> {
  switch (tls.kind) {
    case 'none':
      return null;
    case 'self': {
      const isWildcard = host === '0.0.0.0' || host === '::';
      const hosts = new Set([...(isWildcard ? [] : [host]), 'localhost', '127.0.0.1', '::1']);
      return selfSignedCertificate(dataDir.file('tls'), [...hosts], clock.nowMs());
    }
    case 'files':
      return { cert: readTlsFile(tls.certPath), key: readTlsFile(tls.keyPath) };
  }
}

function readTlsFile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
}

/** The first key, for whoever can read the data directory. */
async function ensureOperatorKey(dataDir: DataDir, store: Store, clock: Clock): Promise<void> {
  const projectId = await store.ensureProject('default');
  if (existsSync(dataDir.file('operator.key'))) return;
  const { keyId, secret, secretHash } = makeKey(clock.nowMs());
  await store.createKey({ projectId, role: 'operator', keyId, secretHash });
  dataDir.writePrivate('operator.key', `${secret}\n`);
}
