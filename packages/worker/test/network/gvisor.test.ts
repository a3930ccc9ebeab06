import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { GVISOR } from '../../src/sandbox/oci/runtimes.ts';
import { ociSkip, ociTarget } from '../support/oci-target.ts';
import { driverNetwork } from './driver.network.ts';

const skip = ociSkip(GVISOR);

if (skip === false) {
  driverNetwork('gvisor', fileURLToPath(import.meta.url), () => ociTarget(GVISOR, `gvisorn${process.pid}`));
} else test('driver gvisor with a network', { skip }, () => undefined);
