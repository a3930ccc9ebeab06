import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { bareWire } from '../../src/network/bare-wire.ts';
import { qemuSkip, qemuTarget } from '../support/qemu-target.ts';
import { driverNetwork } from './driver.network.ts';

const skip = qemuSkip();

if (skip === false) {
  driverNetwork('qemu', fileURLToPath(import.meta.url), ({ snapshots, log }) =>
    qemuTarget(`qemun${process.pid}`, snapshots, { log, wire: bareWire() }),
  );
} else test('driver qemu with a network', { skip }, () => undefined);
