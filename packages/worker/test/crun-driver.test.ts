import { test } from 'node:test';
import { CRUN } from '../src/sandbox/oci/runtimes.ts';
import { driverConformance } from './driver.conformance.ts';
import { ociConfinement } from './oci.confinement.ts';
import { ociSkip, ociTarget } from './support/oci-target.ts';

const skip = ociSkip(CRUN);
const tag = `crun${process.pid}`;

if (skip === false) {
  driverConformance('crun', () => ociTarget(CRUN, tag));
  ociConfinement(CRUN, `${tag}c`);
} else test('driver crun', { skip }, () => undefined);
