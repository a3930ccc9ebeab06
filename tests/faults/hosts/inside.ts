import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CocoreClient } from '@cocore/client';
import type { ExecutionRecord } from '@cocore/protocol';
import { ROOT } from '../../e2e/support/command.ts';
import { until } from '../../e2e/support/wait.ts';
import { Daemon } from '../daemon.ts';
import { textOf } from '../jobs.ts';
import { connect, Host, INSIDE } from './network.ts';

const FUNCTION = 'steps';
const WORKERS = 3;
const PORT = 7070;
/** Each runs one at a time, so that three executions are on three hosts. */
const [MEMORY_MIB, DISK_MIB] = [128, 10_000];
/** Shorter than a lease with what comes before and after it, and longer. */
const [SHORT_MS, LONG_MS] = [12_000, 36_000];

/** A run, and who follows it from the control server's host. */
interface Run {
  readonly id: string;
  readonly worker: number;
  readonly lines: { readonly tag: string; readonly count: number };
  /** What whoever followed it has at its end. */
  readonly printed: Promise<string>;
}

/**
 * A control server and workers that are processes on hosts of their own, with a network between them that loses packets, as real ones
 * do: nobody is told, and TCP does what it does.
 */
describe('hosts whose network loses packets', () => {
  const scope = new AsyncDisposableStack();
  const directory = mkdtempSync(join(tmpdir(), 'cocore-hosts-'));
  const hosts: Host[] = [];
  const control = Host.named(process.env[INSIDE]!);
  let client: CocoreClient;
  const workerIds: string[] = [];
  let runs = 0;

  before(async () => {
    scope.defer(() => rmSync(directory, { recursive: true, force: true }));
    const addresses: string[] = [];
    for (let number = 0; number < WORKERS; number += 1) {
      hosts.push(scope.use(await Host.make(`${control.name}-${number}`)));
      addresses.push(await connect(control, hosts[number]!, number));
    }
    const common = { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, HOME: directory };
    writeFileSync(join(directory, 'image'), 'an image that no fake sandbox looks into');
    const image = join(directory, 'image');
    writeFileSync(join(directory, 'artifacts.json'), JSON.stringify({ baseImage: image, nodeImage: image }));
    const daemonOf = (what: 'control' | 'worker', name: string, host: Host, args: readonly string[]) =>
      scope.use(
        new Daemon({
          name,
          main: join(ROOT, 'packages', what, 'src', 'main.ts'),
          args: ['--data-dir', join(directory, name), ...args],
          env: { ...common, COCORE_LOG_LEVEL: 'info' },
          logPath: join(directory, `${name}.log`),
          within: host.within,
        }),
      );
    const server = daemonOf('control', 'control', control, [
      ...['--artifacts', join(directory, 'artifacts.json'), '--default-isolation', 'container'],
      ...['--host', '0.0.0.0', '--port', String(PORT), '--insecure'],
      ...addresses.flatMap((address) => ['--allow-host', `${address}:${PORT}`]),
    ]);
    await server.start();
    const apiKey = readFileSync(join(directory, 'control', 'operator.key'), 'utf8').trim();
    client = new CocoreClient({ url: `http://127.0.0.1:${PORT}`, apiKey });
    for (const [number, host] of hosts.entries()) {
      const { token } = await client.joinTokens.create({});
      writeFileSync(join(directory, `${number}.token`), token, { mode: 0o600 });
      const worker = daemonOf('worker', `worker-${number}`, host, [
        ...['--server', `http://${addresses[number]!}:${PORT}`, '--insecure', '--name', `worker-${number}`],
        ...['--join-token-file', join(directory, `${number}.token`), '--isolation', 'fake', '--cpus', '1'],
        ...['--memory', String(MEMORY_MIB), '--disk', String(DISK_MIB)],
      ]);
      workerIds.push(await worker.start());
    }
    const file = { name: `${FUNCTION}.sh`, contentBase64: Buffer.from('exit 0\n').toString('base64') };
    await client.functions.deploy({ name: FUNCTION, runtime: 'bash', file, memoryMiB: MEMORY_MIB });
  });
  after(() => scope.disposeAsync());

  const read = (id: string) => client.executions.get(id);

  /** Starts a function that writes a line every quarter of a second, waits until it does, and follows it. */
  async function start(seconds: number): Promise<Run> {
    runs += 1;
    const lines = { tag: `run${runs}`, count: seconds * 4 };
    const { id } = await client.executions.create(FUNCTION, { args: [`lines:${lines.tag}:${lines.count}:250`] });
    const printed = follow(id);
    printed.catch(() => undefined);
    const worker = await until('it runs', async () => {
      const { phase, attempts } = await read(id);
      return phase === 'executing' ? { at: workerIds.indexOf(attempts[0]!.workerId!) } : null;
    });
    return { id, worker: worker.at, lines, printed };
  }

  async function follow(id: string): Promise<string> {
    let pieces: Uint8Array[] = [];
    for await (const { event, data } of client.executions.follow(id)) {
      if (event === 'restart') pieces = [];
      if (event === 'output') pieces.push(data.bytes);
    }
    return Buffer.concat(pieces).toString();
  }

  async function isWhole({ id, lines, printed }: Run): Promise<ExecutionRecord> {
    assert.equal(await printed, textOf(lines));
    const record = await read(id);
    assert.equal(record.state, 'success');
    return record;
  }

  test('lost both ways, lost one way, and one of twelve packets lost, runs go on and the user notices nothing', async () => {
    const all = [await start(25), await start(25), await start(25)];
    const [both, one, some] = all;
    assert.equal(new Set(all.map(({ worker }) => worker)).size, WORKERS);
    {
      await using _both = await hosts[both!.worker]!.lose('both');
      await using _one = await hosts[one!.worker]!.lose('in');
      await using _some = await hosts[some!.worker]!.lose('both', 1 / 12);
      await sleep(SHORT_MS);
    }
    for (const run of all) assert.equal((await isWhole(run)).attempts.length, 1);
  });

  test('lost for longer than a lease, another host runs it, and the first one has no say any more', async () => {
    const run = await start(40);
    const lost = hosts[run.worker]!;
    {
      await using _lost = await lost.lose('both');
      await sleep(LONG_MS);
      const record = await until('another host runs it', async () => {
        const record = await read(run.id);
        return record.attempts.length === 2 && record.phase === 'executing' ? record : null;
      });
      assert.notEqual(record.attempts[1]!.workerId, record.attempts[0]!.workerId);
    }
    const { attempts } = await isWhole(run);
    assert.deepEqual(
      attempts.map(({ cause, outcome }) => [cause, outcome?.kind]),
      [
        ['first', 'lost'],
        ['redelivery', 'exited'],
      ],
    );
  });
});
