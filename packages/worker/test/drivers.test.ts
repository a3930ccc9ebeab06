import { CocoreError } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { join } from 'node:path';
import { defaultArtifacts } from '../src/config.ts';
import { driverNamed, type DriverParts, strongestDriver } from '../src/drivers.ts';
import { readArtifacts } from '../src/sandbox/microvm/artifacts.ts';
import { GVISOR } from '../src/sandbox/oci/runtimes.ts';
import { ociSkip } from './support/oci-target.ts';
import { silent } from './support/run-program.ts';
import { workspace } from './support/workspace.ts';

/** No Firecracker is found in this environment, and KVM's verdict is the host's own. */
function parts(path: string): DriverParts {
  const artifactsPath = defaultArtifacts(process.env);
  return {
    artifacts: readArtifacts(artifactsPath),
    artifactsPath,
    runDir: join(path, 'run'),
    daemonTag: `choice${process.pid}`,
    snapshotBudgetBytes: 2 ** 30,
    recover: true,
    kept: [],
    env: {},
    log: silent,
  };
}

const asError = (error: unknown) => (error instanceof CocoreError ? error : assert.fail(String(error)));

describe('the choice of a driver', { skip: ociSkip(GVISOR) }, () => {
  test('auto, it is the strongest that works, and never weaker than was asked for', async () => {
    await using space = await workspace();
    const { driver } = await strongestDriver('gvisor', parts(space.path));
    await using _driver = driver;
    assert.ok(['microvm', 'gvisor'].includes(driver.capabilities.isolation), driver.capabilities.name);
  });

  test('auto where nothing is strong enough, the error says why of each, and what to do', async () => {
    await using space = await workspace();
    let chosen;
    try {
      chosen = await strongestDriver('microvm', parts(space.path));
    } catch (caught) {
      const error = asError(caught);
      assert.equal(error.code, 'host_unfit');
      assert.match(error.message, /isolation microvm or better \(firecracker: .+; qemu with KVM: .+\)/);
      assert.match(error.message, /by name/);
      assert.doesNotMatch(error.message, /gvisor|crun/);
      return;
    }
    // A host whose KVM runs guests.
    await using _driver = chosen.driver;
    assert.equal(chosen.driver.capabilities.isolation, 'microvm');
  });

  test('a driver by name that cannot run here, the error says what is missing', async () => {
    await using space = await workspace();
    const error = await driverNamed('firecracker', parts(space.path)).then(() => assert.fail('it runs'), asError);
    assert.equal(error.code, 'host_unfit');
    assert.match(error.message, /firecracker/);
  });

  test('a weak driver by name, it is given', async () => {
    await using space = await workspace();
    const { driver } = await driverNamed('crun', parts(space.path));
    await using _driver = driver;
    assert.equal(driver.capabilities.isolation, 'container');
  });
});
