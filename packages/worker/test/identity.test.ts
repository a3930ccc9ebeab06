import assert from 'node:assert/strict';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { test } from 'node:test';
import { Identity } from '../src/identity.ts';
import { workspace } from './support/workspace.ts';

test('a new identity, its file is synced, then named, then its directory is synced; the next life has it', async (t) => {
  await using directory = await workspace();
  const { fsyncSync } = fs;
  const order: string[] = [];
  t.mock.method(fs, 'fsyncSync', (file: number) => {
    const kind = fs.fstatSync(file).isDirectory() ? 'directory' : 'file';
    order.push(`${kind} with ${fs.readdirSync(directory.path).join()}`);
    fsyncSync(file);
  });
  syncBuiltinESMExports();
  t.after(() => {
    t.mock.restoreAll();
    syncBuiltinESMExports();
  });
  const identity = Identity.open(directory.path);
  assert.deepEqual(order, ['file with identity.json.new', 'directory with identity.json']);
  const again = Identity.open(directory.path);
  assert.ok(again.hasSigned('a statement', identity.sign('a statement')));
  assert.ok(!again.hasSigned('another', identity.sign('a statement')));
});
