import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CRUN } from '../../src/sandbox/oci/runtimes.ts';
import { ociSkip, ociTarget } from '../support/oci-target.ts';
import { driverNetwork } from './driver.network.ts';

const skip = ociSkip(CRUN);

if (skip === false) {
  driverNetwork('crun', fileURLToPath(import.meta.url), () => ociTarget(CRUN, `crunn${process.pid}`));
} else test('driver crun with a network', { skip }, () => undefined);
