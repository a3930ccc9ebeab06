import { test } from 'node:test';
import { GVISOR } from '../src/sandbox/oci/runtimes.ts';
import { driverConformance } from './driver.conformance.ts';
import { ociSkip, ociTarget } from './support/oci-target.ts';

const skip = ociSkip(GVISOR);
const tag = `gvisor${process.pid}`;

if (skip === false) driverConformance('gvisor', () => ociTarget(GVISOR, tag));
else test('driver gvisor', { skip }, () => undefined);
