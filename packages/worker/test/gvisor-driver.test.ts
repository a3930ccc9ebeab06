import { test } from 'node:test';
import { GVISOR } from '../src/sandbox/oci/runtimes.ts';
import { driverConformance } from './driver.conformance.ts';
import { hostileFunctionConformance } from './hostile-function.conformance.ts';
import { withoutGuest } from './hostile-guest.conformance.ts';
import { ociConfinement } from './oci.confinement.ts';
import { ociSkip, ociTarget } from './support/oci-target.ts';

const skip = ociSkip(GVISOR);
const tag = `gvisor${process.pid}`;

if (skip === false) {
  driverConformance('gvisor', () => ociTarget(GVISOR, tag));
  ociConfinement(GVISOR, `${tag}c`);
  withoutGuest('gvisor', 'no guest is on the stream: the agent’s part is played in the daemon');
  hostileFunctionConformance('gvisor', () => ociTarget(GVISOR, `${tag}f`));
} else test('driver gvisor', { skip }, () => undefined);
