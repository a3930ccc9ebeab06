import { test } from 'node:test';
import { CRUN } from '../src/sandbox/oci/runtimes.ts';
import { driverConformance } from './driver.conformance.ts';
import { hostileFunctionConformance } from './hostile-function.conformance.ts';
import { withoutGuest } from './hostile-guest.conformance.ts';
import { ociConfinement } from './oci.confinement.ts';
import { ociSkip, ociTarget } from './support/oci-target.ts';

const skip = ociSkip(CRUN);
const tag = `crun${process.pid}`;

if (skip === false) {
  driverConformance('crun', () => ociTarget(CRUN, tag));
  ociConfinement(CRUN, `${tag}c`);
  withoutGuest('crun', 'no guest is on the stream: the agent’s part is played in the daemon');
  hostileFunctionConformance('crun', () => ociTarget(CRUN, `${tag}f`));
} else test('driver crun', { skip }, () => undefined);
