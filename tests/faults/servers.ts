import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CocoreClient } from '@cocore/client';
import { TestPostgres } from '../../packages/control/test/support/postgres.ts';
import { S3Server } from '../../packages/control/test/support/s3/s3-server.ts';
import { Balancer } from './balancer.ts';
import { Daemon } from './daemon.ts';
import { FUNCTION, inTime, lastingPort, mainOf } from './fleet.ts';
import { artifactsOf, FUNCTION_MEMORY_MIB, leaseOf, playerOf } from './sandboxes.ts';

const SERVERS = 3;
const WORKERS = 4;

/** Control servers on one database and one bucket, and workers, as processes; workers and users dial a balancer. */
export class Servers implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'cocore-servers-'));
  readonly postgres: TestPostgres;
  readonly controls: readonly Daemon[];
  readonly workers: readonly Daemon[];
  readonly workerIds: string[] = [];
  readonly #s3: S3Server;
  readonly #balancer: Balancer;
  #client: CocoreClient | null = null;

  private constructor(
    postgres: TestPostgres,
    s3: S3Server,
    balancer: Balancer,
    blobs: { readonly place: string; readonly env: Readonly<Record<string, string>> },
    ports: readonly number[],
  ) {
    this.postgres = postgres;
    this.#s3 = s3;
    this.#balancer = balancer;
    const artifacts = artifactsOf('fake', this.directory);
    const daemon = (name: string, what: 'control' | 'worker', args: readonly string[], env = {}) =>
      new Daemon({
        ...{ name, main: mainOf(what), logPath: join(this.directory, `${name}.log`) },
        args: ['--data-dir', join(this.directory, name), '--artifacts', artifacts, ...args],
        env: {
          ...env,
          PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
          HOME: this.directory,
          COCORE_LOG_LEVEL: 'info',
          COCORE_FAKE_LEDGER: this.ledgerPath,
        },
      });
    const controlEnv = { ...blobs.env, COCORE_DATABASE_URL: postgres.url() };
    this.controls = ports.map((port, number) => {
      const at = ['--port', String(port), '--allow-host', `127.0.0.1:${balancer.port}`];
      const args = [...at, '--blob-store', blobs.place, '--default-isolation', 'container'];
      return daemon(`control-${number}`, 'control', args, controlEnv);
    });
    const { slots, memoryMiB } = leaseOf('fake');
    this.workers = Array.from({ length: WORKERS }, (_, number) => {
      const name = `worker-${number}`;
      const room = ['--cpus', String(slots), '--memory', String(memoryMiB), '--disk', '10000', '--pool', 'off'];
      const token = ['--join-token-file', join(this.directory, `${name}.token`)];
      const server = ['--server', `http://127.0.0.1:${balancer.port}`, '--name', name, '--isolation', 'fake'];
      return daemon(name, 'worker', [...server, ...room, ...token]);
    });
  }

  static async start(): Promise<Servers> {
    const [postgres, s3] = await Promise.all([TestPostgres.start(), S3Server.start()]);
    const { endpoint, bucket, prefix, accessKeyId, secretAccessKey } = await s3.bucket();
    const ports: number[] = [];
    while (ports.length < SERVERS) ports.push(await lastingPort());
    const balancer = await Balancer.to(ports);
    const env = {
      COCORE_S3_ENDPOINT: endpoint.href,
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
    };
    const servers = new Servers(postgres, s3, balancer, { place: `s3://${bucket}/${prefix}`, env }, ports);
    try {
      await servers.#start();
      return servers;
    } catch (error) {
      await servers[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** By way of the balancer. */
  get client(): CocoreClient {
    return this.#client!;
  }

  get ledgerPath(): string {
    return join(this.directory, 'ledger.jsonl');
  }

  get daemons(): readonly Daemon[] {
    return [...this.controls, ...this.workers];
  }

  async stop(): Promise<void> {
    for (const daemon of this.workers) await daemon[Symbol.asyncDispose]();
    for (const daemon of this.controls) await daemon[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.#balancer[Symbol.asyncDispose]();
    await Promise.all([this.postgres[Symbol.asyncDispose](), this.#s3[Symbol.asyncDispose]()]);
    if (process.env['COCORE_TEST_KEEP'] === undefined) rmSync(this.directory, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    await Promise.all(this.controls.map((daemon) => inTime(daemon)));
    const apiKey = readFileSync(join(this.directory, 'control-0', 'operator.key'), 'utf8').trim();
    this.#client = new CocoreClient({ url: `http://127.0.0.1:${this.#balancer.port}`, apiKey });
    await this.client.functions.deploy({
      name: FUNCTION,
      ...playerOf('fake', FUNCTION),
      memoryMiB: FUNCTION_MEMORY_MIB,
    });
    for (const { name } of this.workers) {
      const { token } = await this.client.joinTokens.create({});
      writeFileSync(join(this.directory, `${name}.token`), token, { mode: 0o600 });
    }
    this.workerIds.push(...(await Promise.all(this.workers.map((daemon) => inTime(daemon)))));
  }
}
