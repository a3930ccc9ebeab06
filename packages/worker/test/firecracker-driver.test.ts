import { test } from 'node:test';
import { driverConformance } from './driver.conformance.ts';
import { hostSnapshots } from './support/host-snapshots.ts';
import { firecrackerSkip, firecrackerTarget, isReal } from './support/firecracker-target.ts';

const skip = firecrackerSkip();
const tag = `fctest${process.pid}`;
const name = isReal ? 'firecracker' : 'firecracker (double)';

if (skip === false) driverConformance(name, () => firecrackerTarget(tag, { options: { snapshots: hostSnapshots() } }));
else test(`driver ${name}`, { skip }, () => undefined);
