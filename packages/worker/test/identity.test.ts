import { endStatement, isSharedSignature } from '@cocore/protocol';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { test } from 'node:test';
import { Identity } from '../src/identity.ts';
import { endRecord, SigningKey } from './support/ends.ts';
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
  assert.equal(Identity.open(directory.path).publicKey, identity.publicKey);
});

for (const [how, count] of [
  ['an end', 1],
  ['ends that share a signature', 3],
] as const) {
  test(`${how}, the identity that signed knows each again in its next life, and nothing else`, async () => {
    await using directory = await workspace();
    const key = new SigningKey();
    const ends = ['b1', 'b2', 'b3']
      .slice(0, count)
      .map((last) => endRecord(`at_01m8515c5dec3ssmk0fssmpp${last}`, key).ended);
    const signatures = Identity.open(directory.path).signEnds(ends.map(endStatement));
    assert.ok(signatures.every((signature) => isSharedSignature(signature) === count > 1));
    const again = Identity.open(directory.path);
    for (const [at, end] of ends.entries()) {
      const ended = { ...end, signature: signatures[at]! };
      assert.ok(again.hasSigned(ended));
      assert.ok(!again.hasSigned({ ...ended, artifactFiles: 1 }));
      assert.ok(!again.hasSigned(end));
    }
  });
}
