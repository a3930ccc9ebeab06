import type { Network } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Networks } from '../../src/network/networks.ts';
import type { SandboxDriver, SandboxNetwork, SandboxSpec } from '../../src/sandbox/driver.ts';
import { CRUN } from '../../src/sandbox/oci/runtimes.ts';
import type { DriverTarget } from '../driver.conformance.ts';
import { ociSkip, ociTarget } from '../support/oci-target.ts';
import { runAttempt } from '../support/run-attempt.ts';
import { silent } from '../support/run-program.ts';
import { workspace } from '../support/workspace.ts';
import { inLab, isInLab, Lab, PLACES } from './lab.ts';

const skip = ociSkip(CRUN);

if (isInLab) suite();
else {
  test('attempts whose network or whose sandbox fails', { skip }, async () => {
    const { code, printed } = await inLab(fileURLToPath(import.meta.url));
    assert.equal(code, 0, printed);
  });
}

const NETWORK: Network = { mode: 'egress', allow: [PLACES.listed], maxBytes: 1_000_000 };

/** What differs between drivers is not in this: containers are the fastest to start. */
function suite(): void {
  describe('an attempt with a network', () => {
    const scope = new AsyncDisposableStack();
    let target: DriverTarget;
    let networks: Networks;
    let lab: Lab;
    let directory: string;
    before(async () => {
      lab = scope.use(await Lab.make());
      directory = join(scope.use(await workspace()).path, 'network');
      networks = scope.use(await Networks.open({ directory, serverHost: PLACES.control, proxy: null, log: silent }));
      target = scope.use(await ociTarget(CRUN, `crunf${process.pid}`));
      await target.driver.prepare();
    });
    after(() => scope.disposeAsync());
    afterEach(async () => {
      assert.deepEqual(await target.leftovers(), [], 'a sandbox left something behind');
      assert.deepEqual(readdirSync(directory), [], 'a gate left something behind');
    });

    const run = (program: string, driver: SandboxDriver = target.driver) =>
      runAttempt({
        ...target,
        driver,
        task: { argv: ['/usr/bin/python3', '-c', program], network: NETWORK },
        parts: { networks },
      });

    /** The driver, which may do otherwise at a start; `count` is which one it is. */
    const startingBy = (
      start: (spec: SandboxSpec, signal: AbortSignal, count: number) => ReturnType<SandboxDriver['start']>,
    ): SandboxDriver => {
      const { driver } = target;
      let count = 0;
      return {
        capabilities: driver.capabilities,
        probe: () => driver.probe(),
        prepare: () => driver.prepare(),
        start: (spec, signal) => start(spec, signal, (count += 1)),
        recover: (handle) => driver.recover(handle),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
    };

    /** The network, and word of the gate of each sandbox that is attached to it. */
    const withGate = (network: SandboxNetwork, onGate: (pid: number) => void): SandboxNetwork => ({
      attach: async (plug) => {
        const attached = await network.attach(plug);
        onGate(Number(/\d+/.exec(attached.namespacePath)![0]));
        return attached;
      },
    });

    test('a gate that dies while the function runs, the attempt is lost, says why, and leaves nothing', async () => {
      const gate = Promise.withResolvers<number>();
      const driver = startingBy(({ network, ...spec }, signal) =>
        target.driver.start({ ...spec, network: withGate(network!, gate.resolve) }, signal),
      );
      const running = run(
        `
import socket, time
s = socket.create_connection(("${PLACES.listed}", 7)); s.sendall(b"x" * 1000)
print(len(s.recv(1000, socket.MSG_WAITALL)), flush=True)
time.sleep(60)`,
        driver,
      );
      const pid = await gate.promise;
      while ((await lab.takeArrivals()).length === 0);
      process.kill(pid, 'SIGKILL');
      const { ended, ranMs } = await running;
      assert.deepEqual(ended.outcome, { kind: 'lost', cause: 'sandbox' });
      assert.equal(ended.message, 'its network ended: the gate was gone');
      assert.ok(ranMs! < 20_000, `${ranMs} ms`);
      assert.equal(existsSync(`/proc/${pid}`), false);
    });

    test('a first boot that fails with its network attached, the next has one, and the record counts it alone', async () => {
      const gates: number[] = [];
      const driver = startingBy(async ({ network, ...spec }, signal, count) => {
        const sandbox = await target.driver.start(
          { ...spec, network: withGate(network!, (pid) => gates.push(pid)) },
          signal,
        );
        if (count > 1) return sandbox;
        await sandbox.destroy();
        throw new Error('the first boot failed');
      });
      const { ended, stdout } = await run(
        `
import socket
s = socket.create_connection(("${PLACES.listed}", 7)); s.sendall(b"x" * 1000)
print(len(s.recv(1000, socket.MSG_WAITALL)), flush=True)`,
        driver,
      );
      assert.deepEqual(ended.outcome, { kind: 'exited', code: 0 }, ended.message ?? '');
      assert.equal(stdout, '1000\n');
      assert.equal(gates.length, 2);
      assert.deepEqual(ended.usage.egress, {
        ...{ sentBytes: 1_000, receivedBytes: 1_000, connections: 1, refused: 0, limited: false },
      });
    });
  });
}
