import { CocoreError, type ErrorCode } from '@cocore/protocol';
import { mkdir, stat } from 'node:fs/promises';
import { arch, release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { BlobCache } from './blobs/blob-cache.ts';
import { leaseOf } from './capacity/lease.ts';
import { CapacityLedger, type Share } from './capacity/ledger.ts';
import type { WorkerConfig } from './config.ts';
import { type ChosenDriver, driverNamed, strongestDriver } from './drivers.ts';
import type { Attempt } from './execution/attempt.ts';
import { AttemptRecords } from './execution/attempt-records.ts';
import { Attempts } from './execution/attempts.ts';
import { EndJournal } from './execution/end-journal.ts';
import { EndSigner } from './execution/end-signer.ts';
import { takeHostLock } from './host/lock.ts';
import { hostResources } from './host/resources.ts';
import { Identity } from './identity.ts';
import { type Artifacts, readArtifacts } from './sandbox/microvm/artifacts.ts';
import type { SandboxHandle } from './sandbox/driver.ts';
import { Networks } from './network/networks.ts';
import type { DriverCapabilities } from './sandbox/driver.ts';
import { PooledDriver } from './sandbox/pool/pooled-driver.ts';
import { Contact } from './session/contact.ts';
import { Endpoint } from './session/endpoint.ts';
import { parseJoinToken } from './session/join-token.ts';
import { Link } from './session/link.ts';

export const DAEMON_VERSION = '0.1.0';

/** How long a stopping daemon waits for the control server to take its last reports. */
const LAST_REPORTS_MS = 4_000;

/** The part of the leased disk that snapshots of booted machines may fill. */
const SNAPSHOTS_OF_DISK = 1 / 8;
/** The part of the host's memory that sandboxes which only wait leave free. */
const HOST_RESERVE = 1 / 10;

const BOUNDLESS: Share = { cpus: Infinity, memoryMiB: Infinity, diskMiB: Infinity };

/** A running daemon. Disposing it ends its attempts as reclaimed, reports them, and leaves nothing. */
export interface Daemon extends AsyncDisposable {
  /** The worker's id, once the control server has welcomed it. */
  readonly ready: Promise<string>;
  /** Rejects when the control server refuses this worker for good; resolves when the daemon is disposed of. */
  readonly ended: Promise<void>;
  /** Takes nothing more; resolves when what it has is finished and reported. */
  drain(): Promise<void>;
}

/**
 * Builds the daemon from its parts and starts it.
 *
 * @throws CocoreError when the configuration, the data directory or the host will not do
 */
export async function startDaemon(config: WorkerConfig, log: Logger): Promise<Daemon> {
  await using scope = new AsyncDisposableStack();
  const endpoint = new Endpoint({ url: config.server, insecure: config.insecure, ca: config.ca });
  const joinToken = config.joinToken === null ? null : parseJoinToken(config.joinToken);
  await lockDataDir(config.dataDir, scope);
  const identity = Identity.open(config.dataDir);
  if (identity.joined === null && joinToken === null) {
    throw new CocoreError('join_token_invalid', 'this worker has not joined a server yet, and was given no join token');
  }
  const { journal, left } = await EndJournal.open({
    directory: join(config.dataDir, 'ends'),
    isOurs: (ended) => identity.hasSigned(ended),
    log,
  });
  scope.use(journal);
  const { records, left: begun } = await AttemptRecords.open({ directory: join(config.dataDir, 'attempts'), log });
  const resources = hostResources(config.dataDir);
  // What the fake driver leases is on no host.
  const total = config.isolation === 'fake' ? BOUNDLESS : resources.total;
  const lease = leaseOf(config.lease, { ...resources, total });
  const artifacts = config.isolation === 'fake' ? null : readArtifacts(config.artifacts);
  const kept = begun.map(({ handle }) => handle);
  const chosen = await chooseDriver(config, artifacts, identity, lease, kept, log);
  const prepared = scope.use(chosen.driver);
  const { name, isolation, overheadMiB, overheadRatio } = prepared.capabilities;
  const networks = await openNetworks(config, prepared.capabilities, endpoint.host, log);
  if (networks !== null) scope.use(networks);
  // A quarter of the disk is for blobs; what remains is for sandboxes.
  const blobsMiB = Math.floor(lease.diskMiB / 4);
  // The overhead that grows with a function's memory is taken off the whole, so that what remains is counted in functions' memory.
  const memoryMiB = Math.floor(lease.memoryMiB / (1 + overheadRatio));
  const share = { cpus: lease.cpus, memoryMiB, diskMiB: lease.diskMiB - blobsMiB };
  const link: Link = new Link({
    endpoint,
    identity,
    joinToken,
    capabilities: { driver: name, isolation, ...share, sandboxOverheadMiB: overheadMiB, egress: networks !== null },
    name: config.name,
    daemonVersion: DAEMON_VERSION,
    platform: `linux ${release()} ${arch()}`,
    largeBlobs: () => blobs.largeBlobs(),
    onAnswered: (sentMs) => contact.answered(sentMs),
    log,
  });
  const blobs: BlobCache = scope.use(
    await BlobCache.open({
      directory: join(config.dataDir, 'blobs'),
      budgetBytes: blobsMiB * 2 ** 20,
      source: (digest, signal, from) => link.blob(digest, signal, from),
      onChange: () => link.tellBlobs(),
      given: artifacts === null ? [] : [artifacts.baseImage, artifacts.nodeImage],
    }),
  );
  let bootRetries = 0;
  const ledger = new CapacityLedger(share);
  const driver =
    chosen.blanks === null || !config.pool ? prepared : scope.use(pooled(chosen.blanks, ledger, config, log));
  const signer = new EndSigner({
    signEnds: (statements) => identity.signEnds(statements),
    isShared: () => link.takesSharedSignatures,
  });
  const parts = {
    driver,
    ...(networks === null ? {} : { networks }),
    blobs,
    journal,
    records,
    log,
    sign: (statement: string) => signer.sign(statement),
    onNews: (attempt: Attempt) => link.tell(attempt),
    onBootRetry: () => {
      bootRetries += 1;
      log.warn({ bootRetries }, 'boots repeated since the start');
    },
  };
  const attempts = new Attempts(ledger, parts, left);
  for (const entry of begun) {
    const { attemptId } = entry;
    const sandbox = entry.driver === name ? await driver.recover(entry.handle) : null;
    log.info({ attemptId, taken: sandbox !== null }, 'an attempt of an earlier life');
    if (sandbox === null) await records.remove(attemptId);
    else await attempts.takeUp(entry, sandbox);
  }
  const contact: Contact = scope.use(new Contact({ onCutOff: () => attempts.cutOff() }));
  scope.use(link);
  scope.defer(async () => {
    const reclaimed = attempts.reclaim();
    link.tellStopping();
    await reclaimed;
    const due = performance.now() + LAST_REPORTS_MS;
    while (attempts.list().length > 0 && link.connected && performance.now() < due) await sleep(20);
  });
  const ended = link.run(attempts);
  ended.catch(() => undefined);
  log.info({ driver: name, isolation, ...share, workerId: identity.joined?.workerId ?? null }, 'worker started');
  const owned = scope.move();
  return {
    ready: link.joined,
    ended,
    drain: () => {
      const drained = attempts.drain();
      link.tellStopping();
      return drained;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function chooseDriver(
  { isolation, atLeast, artifacts: artifactsPath, dataDir, recover }: WorkerConfig,
  artifacts: Artifacts | null,
  { daemonTag }: Identity,
  { diskMiB }: Share,
  kept: readonly SandboxHandle[],
  log: Logger,
): Promise<ChosenDriver> {
  const snapshotBudgetBytes = Math.floor(diskMiB * SNAPSHOTS_OF_DISK) * 2 ** 20;
  const runDir = join(dataDir, 'run');
  const parts = {
    artifacts,
    artifactsPath,
    runDir,
    daemonTag,
    snapshotBudgetBytes,
    recover,
    kept,
    env: process.env,
    log,
  };
  return isolation === 'auto' ? strongestDriver(atLeast, parts) : driverNamed(isolation, parts);
}

/**
 * Null where the owner lets functions have no network, or where this host can give them none and need not.
 *
 * @throws CocoreError `host_unfit` where it must
 */
async function openNetworks(
  { egress, dataDir }: WorkerConfig,
  { name, network }: DriverCapabilities,
  serverHost: string,
  log: Logger,
): Promise<Networks | null> {
  if (egress === null) return null;
  try {
    if (!network) throw new CocoreError('host_unfit', `the driver ${name} attaches none`);
    const directory = join(dataDir, 'network');
    return await Networks.open({ directory, serverHost, proxy: egress.proxy, log });
  } catch (error) {
    if (!(error instanceof CocoreError)) throw error;
    if (egress.isRequired) {
      const message = `--egress, and this worker can give functions no network: ${error.message}`;
      throw new CocoreError('host_unfit', message, { cause: error });
    }
    log.warn({ why: error.message }, 'this worker gives no function a network, although its owner allows it');
    return null;
  }
}

/** What waits may take what is leased and no attempt has, while the host itself has enough. */
function pooled(
  driver: NonNullable<ChosenDriver['blanks']>,
  ledger: CapacityLedger,
  { dataDir }: WorkerConfig,
  log: Logger,
): PooledDriver {
  const roomMiB = () => {
    const { total, free } = hostResources(dataDir);
    const unused = ledger.lease.memoryMiB - ledger.used().memoryMiB;
    return Math.min(unused, free.memoryMiB - Math.floor(total.memoryMiB * HOST_RESERVE));
  };
  return new PooledDriver({ driver, roomMiB, log });
}

/** Makes the data directory and holds it for this process. @throws CocoreError `data_dir_in_use` or `file_unreadable` */
async function lockDataDir(path: string, scope: AsyncDisposableStack): Promise<void> {
  let id: string;
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    const { dev, ino } = await stat(path, { bigint: true });
    id = `${dev}/${ino}`;
  } catch (cause) {
    throw new CocoreError('file_unreadable', `the data directory ${path} cannot be made or read`, { cause });
  }
  const lock = await takeHostLock(`worker/${id}`);
  if (lock === null) throw new CocoreError('data_dir_in_use', `another worker uses the data directory ${path}`);
  scope.use(lock);
}

/** Errors of what the daemon was told, as against what the host or the network is. */
export const CONFIGURATION_ERRORS: ReadonlySet<ErrorCode> = new Set([
  'usage',
  'file_unreadable',
  'artifact_missing',
  'insecure_refused',
  'limit_exceeded',
  'join_token_invalid',
  'signature_invalid',
  'protocol_version',
  'server_mismatch',
]);
