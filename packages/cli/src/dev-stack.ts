import { type ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import { CocoreClient } from '@cocore/client';
import { CocoreError, isErrorCode, type IsolationClass, type WorkerRecord } from '@cocore/protocol';
import { CredentialsStore } from './credentials.ts';
import { artifacts, type DaemonName, startDaemon, startDaemonByRoot } from './daemons.ts';
import { credentialsDir } from './paths.ts';

const DEFAULT_PORT = 7733;
/** Longer than either daemon takes to stop in order: a worker asks its functions to stop, and waits for its reports to be taken. */
const STOP_TIMEOUT_MS = 20_000;

/**
 * What functions require here when they are deployed without a word about it: what the driver of that name gives on any host. `auto` may go
 * as far down as emulation, which a worker elsewhere does by name only.
 */
export const DEV_ISOLATION = {
  auto: 'emulated',
  firecracker: 'gvisor',
  qemu: 'emulated',
  gvisor: 'gvisor',
  crun: 'container',
  fake: 'container',
} as const satisfies Record<string, IsolationClass>;
export type DevDriver = keyof typeof DEV_ISOLATION;

export interface DevOptions {
  readonly env: NodeJS.ProcessEnv;
  /** Undefined: the default one, or any other when that is taken. */
  readonly port: number | undefined;
  readonly dataDir: string;
  readonly isolation: DevDriver;
  readonly serverArgs: readonly string[];
  readonly workerArgs: readonly string[];
  readonly logLevel: string;
  /** Settles when the user wants it to end, which may be before it is ready. */
  readonly stopped: Promise<void>;
}

/** One daemon that was started, what it said it was ready as, and how it ends. */
class Daemon implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #stopBy: 'signal' | 'end of input';
  readonly ready: Promise<string>;
  /** Rejects when it ends without having been asked to: with what it said, if it said why. */
  readonly broken: Promise<never>;
  #stopping = false;

  constructor(name: DaemonName, child: ChildProcess, stopBy: 'signal' | 'end of input') {
    this.#child = child;
    this.#stopBy = stopBy;
    let printed = '';
    let said: CocoreError | null = null;
    let rest = '';
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!.slice(-4_000);
      for (const line of lines) {
        said ??= errorIn(line);
        // What it ends with is this command's own error, and is said once.
        if (said === null) process.stderr.write(`${line}\n`);
      }
    });
    this.ready = new Promise((resolve) => {
      child.stdout!.setEncoding('utf8').on('data', (text: string) => {
        printed = (printed + text).slice(-1_000);
        const ready = /^ready (\S+)$/m.exec(printed);
        if (ready !== null) resolve(ready[1]!);
      });
    });
    this.broken = new Promise((_, reject) => {
      child.once('error', (cause) => {
        reject(new CocoreError('host_unfit', `${child.spawnfile} cannot be started`, { cause }));
      });
      child.once('close', (code, signal) => {
        if (this.#stopping) return;
        reject(said ?? new CocoreError('internal', `the ${name} process ended (${code ?? signal})`));
      });
    });
    this.broken.catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    let timer;
    if (this.#stopBy === 'signal') {
      child.kill('SIGTERM');
      timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    } else {
      child.stdin!.end();
    }
    await ended;
    clearTimeout(timer);
  }
}

/** The error that a line of a daemon's says, as `cocore` itself says its own. */
function errorIn(line: string): CocoreError | null {
  const [, code, message] = /^error (\w+): (.*)$/.exec(line) ?? [];
  return code !== undefined && isErrorCode(code) ? new CocoreError(code, message!) : null;
}

const isTaken = async (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connectSocket(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });

async function choosePort(asked: number | undefined): Promise<number> {
  if (asked === undefined) return (await isTaken(DEFAULT_PORT)) ? 0 : DEFAULT_PORT;
  if (asked !== 0 && (await isTaken(asked))) throw new CocoreError('address_in_use', `port ${asked} is taken`);
  return asked;
}

/** Control server and worker together, with a key that the command finds by itself; all of it goes when this is disposed. */
export class DevStack implements AsyncDisposable {
  readonly url: string;
  readonly broken: Promise<never>;
  readonly #owned: AsyncDisposableStack;

  private constructor(url: string, broken: Promise<never>, owned: AsyncDisposableStack) {
    this.url = url;
    this.broken = broken;
    this.#owned = owned;
  }

  /** Resolves once the worker can take work; with null when it was stopped before. @throws CocoreError */
  static async start(options: DevOptions): Promise<DevStack | null> {
    const found = artifacts(options.env);
    await using owned = new AsyncDisposableStack();
    makeDirectory(options.dataDir);
    const env = { ...options.env, COCORE_LOG_LEVEL: options.logLevel };
    const halted = options.stopped.then(() => null);

    const serverDir = join(options.dataDir, 'server');
    const serverArgs = [
      '--data-dir',
      serverDir,
      '--artifacts',
      found,
      '--port',
      String(await choosePort(options.port)),
      '--default-isolation',
      DEV_ISOLATION[options.isolation],
      // A server for one's own machine takes the images that one builds there.
      '--loopback-registries',
      ...options.serverArgs,
    ];
    const server = owned.use(
      new Daemon('control', startDaemon('control', serverArgs, { env, stdio: ['ignore', 'pipe', 'pipe'] }), 'signal'),
    );
    const url = await Promise.race([server.ready, server.broken, halted]);
    if (url === null) return null;

    const operatorKey = readFileSync(join(serverDir, 'operator.key'), 'utf8').trim();
    const operator = new CocoreClient({ url, apiKey: operatorKey });
    await publishKey(owned, operator, url, new CredentialsStore(credentialsDir(options.env)));

    const worker = owned.use(await startWorker(options, env, found, url, operator));
    const broken = Promise.race([server.broken, worker.broken]);
    broken.catch(() => undefined);
    if ((await Promise.race([worker.ready, broken, halted])) === null) return null;
    const record = (await operator.workers.list()).find(({ state }) => state === 'online');
    if (record !== undefined) process.stderr.write(`cocore: ${describeSandboxes(record)}\n`);
    if (record?.egress === true) {
      process.stderr.write(
        'cocore: functions reach what their deployment allows (cocore deploy --allow), through this host\n',
      );
    }
    return new DevStack(url, broken, owned.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
  }
}

function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new CocoreError('file_unreadable', `the directory ${path} cannot be made`, { cause });
  }
}

/** What the weaker classes are not. */
const NOT_A_WALL: Partial<Record<IsolationClass, string>> = {
  emulated: 'for development, not a wall against strangers’ code',
  container: 'functions share this host’s kernel; for code that you trust, not a wall against strangers’',
};

export function describeSandboxes({ driver, isolation }: Pick<WorkerRecord, 'driver' | 'isolation'>): string {
  const what = `sandboxes by ${driver}, isolation class ${isolation}`;
  const not = NOT_A_WALL[isolation];
  return not === undefined ? what : `${what}: ${not}`;
}

/** A key of this start alone: gone from the server and from the user's files at the end. */
async function publishKey(
  owned: AsyncDisposableStack,
  operator: CocoreClient,
  url: string,
  store: CredentialsStore,
): Promise<void> {
  const key = await operator.keys.create({ role: 'operator' });
  owned.defer(async () => operator.keys.revoke(key.id).catch(() => undefined));
  store.write({ url, apiKey: key.secret });
  owned.defer(() => store.remove(url));
}

async function startWorker(
  options: DevOptions,
  env: NodeJS.ProcessEnv,
  found: string,
  url: string,
  operator: CocoreClient,
): Promise<Daemon> {
  const { token } = await operator.joinTokens.create();
  const isRoot = process.getuid?.() === 0;
  if (!isRoot) process.stderr.write('cocore: the worker needs root for its sandboxes; it is started by sudo\n');
  const args = [
    '--server',
    url,
    '--data-dir',
    join(options.dataDir, 'worker'),
    '--artifacts',
    found,
    '--join-token-file',
    '-',
    '--isolation',
    options.isolation,
    ...(options.isolation === 'auto' ? ['--at-least', DEV_ISOLATION.auto] : []),
    ...options.workerArgs,
  ];
  const child = isRoot
    ? startDaemon('worker', args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
    : startDaemonByRoot('worker', args, env);
  const daemon = new Daemon('worker', child, isRoot ? 'signal' : 'end of input');
  // It may refuse to start before it has read the token.
  child.stdin!.on('error', () => undefined);
  child.stdin!.write(`${token}\n`);
  if (isRoot) child.stdin!.end();
  return daemon;
}
