import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { bareWire } from '../../src/network/bare-wire.ts';
import { firecrackerSkip, firecrackerTarget, isReal } from '../support/firecracker-target.ts';
import { driverNetwork } from './driver.network.ts';

const skip = firecrackerSkip();
const DEAR = 'a start of the double takes seconds: all are tried where COCORE_TEST_WHOLE is set';
const name = isReal ? 'firecracker' : 'firecracker (double)';

if (skip === false) {
  driverNetwork(
    name,
    fileURLToPath(import.meta.url),
    ({ snapshots, log }) => firecrackerTarget(`fcnet${process.pid}`, { options: { snapshots, log, wire: bareWire() } }),
    {
      onlyTypical: isReal || process.env['COCORE_TEST_WHOLE'] !== undefined ? false : DEAR,
    },
  );
} else test(`driver ${name} with a network`, { skip }, () => undefined);
