import { test } from 'node:test';
import { driverConformance } from './driver.conformance.ts';
import { hostileGuestConformance } from './hostile-guest.conformance.ts';
import { outlivingConformance } from './outliving.conformance.ts';
import { hostileMicrovm } from './support/hostile-microvm.ts';
import { hostSnapshots } from './support/host-snapshots.ts';
import { firecrackerSkip, firecrackerTarget, isReal } from './support/firecracker-target.ts';

const skip = firecrackerSkip();
/** A machine that is restored runs within a third of this. */
const MUTE_MS = 3_000;
const DEAR = 'a start of the double takes seconds: all are tried where COCORE_TEST_WHOLE is set';
const tag = `fctest${process.pid}`;
const name = isReal ? 'firecracker' : 'firecracker (double)';

if (skip === false) {
  driverConformance(name, () => firecrackerTarget(tag, { options: { snapshots: hostSnapshots(), recover: true } }));
  outlivingConformance('firecracker', `${tag}o`, (runDir) =>
    firecrackerTarget(`${tag}o`, {
      options: { snapshots: hostSnapshots(), recover: true, ...(runDir === '' ? {} : { runDir }) },
    }),
  );
  hostileGuestConformance(
    name,
    () =>
      hostileMicrovm(MUTE_MS, ({ artifacts, snapshots }) =>
        firecrackerTarget(snapshots === null ? `${tag}c` : `${tag}h`, { options: { artifacts, snapshots } }),
      ),
    { onlyTypical: isReal || process.env['COCORE_TEST_WHOLE'] !== undefined ? false : DEAR },
  );
} else test(`driver ${name}`, { skip }, () => undefined);
