import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { CocoreClient } from '@cocore/client';
import type { FunctionDeployInput } from '@cocore/protocol';
import { endsOnDisk } from '../../../packages/worker/test/support/ends.ts';
import { cocore, type Command, type Environment, type Result, ROOT, start } from './command.ts';
import { type TestDatabase, testDatabase } from './database.ts';
import { descendants, type LiveSandbox, type Process, sandboxesOf } from './processes.ts';
import { freePort, Relay } from './relay.ts';

/** What the real user's cache holds is used; everything else a stack writes is its own and temporary. */
const CACHE_DIR =
  process.env['COCORE_CACHE_DIR'] ??
  (process.env['XDG_CACHE_HOME'] === undefined
    ? join(homedir(), '.cache', 'cocore')
    : join(process.env['XDG_CACHE_HOME'], 'cocore'));

/** The driver that the suite runs on. */
export const ISOLATION = process.env['COCORE_TEST_ISOLATION'] ?? 'qemu';

/** Why a test of virtual machines does not run on this driver; false where it does. */
export const machineSkip: string | false =
  ISOLATION === 'qemu' ? false : `the sandboxes of ${ISOLATION} have no machine monitor of QEMU`;

/** Why no sandbox outlives its daemon on this driver; false where one does. */
export const outlivingSkip: string | false =
  ISOLATION === 'qemu' || ISOLATION === 'firecracker' ? false : `the sandboxes of ${ISOLATION} die with their daemon`;

/** Why a test that waits for half a minute and more does not run now; false where all do. */
export const longSkip: string | false =
  process.env['COCORE_TEST_WHOLE'] === undefined ? 'it waits for long: it runs where COCORE_TEST_WHOLE is set' : false;

/** Why a test that says little of the driver does not run on the slowest; false where it does. */
export const slowSkip: string | false =
  ISOLATION === 'qemu' && process.env['COCORE_TEST_WHOLE'] === undefined
    ? 'it says little of the driver: it runs where sandboxes are not emulated, and where COCORE_TEST_WHOLE is set'
    : false;

/** Where another Firecracker is, and what it needs; and what Node need not compile again. */
const FORWARDED = Object.fromEntries(
  [
    ...['COCORE_FIRECRACKER', 'COCORE_JAILER', 'COCORE_BOOT_DEADLINE_MS', 'COCORE_VMM_OVERHEAD_MIB'],
    'NODE_COMPILE_CACHE',
  ].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  }),
);

export interface Temporary extends Disposable {
  readonly path: string;
  readonly env: Environment;
}

/** A home of its own: no setting of the person who runs the tests can matter. */
export function temporary(): Temporary {
  const path = mkdtempSync(join(tmpdir(), 'cocore-e2e-'));
  return {
    path,
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: join(path, 'home'),
      XDG_CONFIG_HOME: join(path, 'config'),
      XDG_DATA_HOME: join(path, 'data'),
      COCORE_CACHE_DIR: CACHE_DIR,
      ...FORWARDED,
    },
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** Control server and worker as `cocore dev` starts them, with a client that holds dev's own key. */
export class Stack implements AsyncDisposable {
  readonly url: string;
  readonly home: Temporary;
  readonly command: Command;
  readonly client: CocoreClient;
  readonly apiKey: string;
  readonly #database: TestDatabase;

  private constructor(url: string, home: Temporary, command: Command, database: TestDatabase) {
    this.url = url;
    this.home = home;
    this.command = command;
    this.#database = database;
    this.apiKey = credentialsIn(home.env['XDG_CONFIG_HOME']!);
    this.client = new CocoreClient({ url, apiKey: this.apiKey });
  }

  static async dev(...args: string[]): Promise<Stack> {
    return Stack.on({}, ...args);
  }

  /** With more in the environment. */
  static async on(env: Environment, ...args: string[]): Promise<Stack> {
    const home = temporary();
    const database = await testDatabase();
    Object.assign(home.env, database.env, env);
    try {
      const command = start(
        ['dev', '--port', '0', '--isolation', ISOLATION, '--pool', 'off', ...args],
        home.env,
        'keep open',
      );
      const [, url] = await command.waitFor('stdout', /^ready (http:\/\/127\.0\.0\.1:\d+)$/m);
      return new Stack(url!, home, command, database);
    } catch (error) {
      await database[Symbol.asyncDispose]();
      home[Symbol.dispose]();
      throw error;
    }
  }

  /** Runs one command of the user's. */
  async cocore(args: readonly string[], stdin?: Uint8Array): Promise<Result> {
    return cocore(args, this.home.env, stdin);
  }

  /** Runs a line of sh, in the user's environment and the root of the checkout. */
  async shell(line: string): Promise<Result> {
    const child = spawn('sh', ['-c', line], { cwd: ROOT, env: this.home.env, stdio: ['ignore', 'pipe', 'pipe'] });
    const chunks: Buffer[] = [];
    let stderr = '';
    child.stdout.on('data', (data: Buffer) => chunks.push(data));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
    return { code, signal, stdout: Buffer.concat(chunks), stderr };
  }

  start(args: readonly string[], stdin?: Uint8Array | 'keep open'): Command {
    return start(args, this.home.env, stdin);
  }

  async deploy(
    name: string,
    runtime: 'bash' | 'python',
    source: string,
    options: Partial<Omit<FunctionDeployInput, 'name' | 'runtime' | 'file'>> = {},
  ) {
    const file = {
      name: runtime === 'bash' ? `${name}.sh` : `${name}.py`,
      contentBase64: Buffer.from(source).toString('base64'),
    };
    return this.client.functions.deploy({ name, runtime, file, ...options });
  }

  async output(executionId: string, stream: 'stdout' | 'stderr'): Promise<Buffer> {
    return Buffer.from(await this.client.executions.outputBytes(executionId, stream));
  }

  daemon(which: 'control' | 'worker'): Process {
    const found = descendants(this.command.child.pid!).find(({ command }) => command.includes(`packages/${which}/`));
    if (found === undefined) throw new Error(`there is no ${which} process`);
    return found;
  }

  sandboxes(): LiveSandbox[] {
    return sandboxesOf(this.command.child.pid!);
  }

  credentialFiles(): string[] {
    return credentialFilesIn(this.home.env['XDG_CONFIG_HOME']!);
  }

  /** Ends it as Ctrl-C does. */
  async stop(): Promise<Result> {
    this.command.child.kill('SIGINT');
    return this.command.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.command.child.exitCode === null) await this.stop();
    await this.#database[Symbol.asyncDispose]();
    this.home[Symbol.dispose]();
  }
}

function credentialFilesIn(configDir: string): string[] {
  return readdirSync(join(configDir, 'cocore', 'credentials')).map((file) =>
    join(configDir, 'cocore', 'credentials', file),
  );
}

function credentialsIn(configDir: string): string {
  const [file] = credentialFilesIn(configDir);
  return (JSON.parse(readFileSync(file!, 'utf8')) as { apiKey: string }).apiKey;
}

export interface ApartOptions {
  readonly env?: Environment;
  readonly serverArgs?: readonly string[];
  /** That of the suite if not given. */
  readonly isolation?: string;
}

/**
 * Control server and worker as two processes, as on two machines: TLS with a certificate that the server made, a join
 * token, and between them a relay that a test can cut.
 */
export class Apart implements AsyncDisposable {
  readonly home = temporary();
  readonly #options: ApartOptions;
  readonly #relay: Relay;
  readonly #serverPort: number;
  #server: Command | null = null;
  #worker: Command | null = null;
  #client: CocoreClient | null = null;

  readonly #database: TestDatabase;

  private constructor(serverPort: number, relay: Relay, database: TestDatabase, options: ApartOptions) {
    this.#options = options;
    this.#database = database;
    Object.assign(this.home.env, database.env, options.env);
    this.#serverPort = serverPort;
    this.#relay = relay;
  }

  static async start(options: ApartOptions = {}): Promise<Apart> {
    const port = await freePort();
    const apart = new Apart(port, await Relay.to(port), await testDatabase(), options);
    try {
      await apart.#startServer();
      await apart.startWorker();
      return apart;
    } catch (error) {
      await apart[Symbol.asyncDispose]();
      throw error;
    }
  }

  get client(): CocoreClient {
    return this.#client!;
  }

  get #dataDir(): string {
    return join(this.home.path, 'server');
  }

  async #startServer(): Promise<void> {
    const args = ['server', '--port', String(this.#serverPort), '--tls-self', '--data-dir', this.#dataDir];
    args.push('--allow-host', `127.0.0.1:${this.#relay.port}`);
    // Whatever driver the suite runs on.
    args.push('--default-isolation', 'container', ...(this.#options.serverArgs ?? []));
    this.#server = start(args, this.home.env, 'keep open');
    const [, url] = await this.#server.waitFor('stdout', /^ready (https:\/\/\S+)$/m);
    const certificate = readFileSync(join(this.#dataDir, 'tls', 'cert.pem'), 'utf8');
    tls.setDefaultCACertificates([...tls.getCACertificates('default'), certificate]);
    const apiKey = readFileSync(join(this.#dataDir, 'operator.key'), 'utf8').trim();
    this.#client = new CocoreClient({ url: url!, apiKey });
  }

  /** Stops it as an operator does, and starts it again on the same port and data. */
  async restartServer(): Promise<void> {
    this.#server!.child.kill('SIGTERM');
    await this.#server!.ended;
    await this.#startServer();
  }

  async #joinTokenFile(): Promise<string> {
    const path = join(this.home.path, 'join-token');
    if (!existsSync(path)) writeFileSync(path, (await this.client.joinTokens.create({})).token, { mode: 0o600 });
    return path;
  }

  async startWorker(): Promise<void> {
    this.#worker = start(await this.#workerArgs('worker'), this.home.env, 'keep open');
    await this.#worker.waitFor('stdout', /^ready wk_/m);
  }

  async #workerArgs(name: string): Promise<string[]> {
    const server = `https://127.0.0.1:${this.#relay.port}`;
    const dataDir = join(this.home.path, name);
    return [
      'worker',
      '--server',
      server,
      '--data-dir',
      dataDir,
      '--isolation',
      this.#options.isolation ?? ISOLATION,
      // Sandboxes are counted.
      '--pool',
      'off',
      '--join-token-file',
      await this.#joinTokenFile(),
    ];
  }

  /** Another worker that tries the token which the first one used. */
  async joinAgain(): Promise<Result> {
    return start(await this.#workerArgs('second'), this.home.env).ended;
  }

  killWorker(): void {
    const daemon = descendants(this.#worker!.child.pid!).find(({ command }) => command.includes('packages/worker/'));
    process.kill(daemon!.pid, 'SIGKILL');
  }

  /** Of the worker: ends that it has written down, and that are not acknowledged. */
  endsOnDisk(): string[] {
    return endsOnDisk(join(this.home.path, 'worker', 'ends'));
  }

  /** Asks the worker to finish what it has; resolves with its exit code. */
  async drainWorker(): Promise<number | null> {
    this.#worker!.child.kill('SIGUSR2');
    return (await this.#worker!.ended).code;
  }

  cutConnection(): { heal(): void } {
    return this.#relay.cut();
  }

  sandboxes(): LiveSandbox[] {
    return sandboxesOf(this.#worker!.child.pid!);
  }

  async deploy(name: string, source: string): Promise<void> {
    const file = { name: `${name}.sh`, contentBase64: Buffer.from(source).toString('base64') };
    await this.client.functions.deploy({ name, runtime: 'bash', file });
  }

  async stdout(executionId: string): Promise<string> {
    return Buffer.from(await this.client.executions.outputBytes(executionId, 'stdout')).toString();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const command of [this.#worker, this.#server]) {
      if (command === null || command.child.exitCode !== null) continue;
      command.child.kill('SIGTERM');
      await command.ended;
    }
    await this.#relay[Symbol.asyncDispose]();
    await this.#database[Symbol.asyncDispose]();
    this.home[Symbol.dispose]();
  }
}
