import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Tree } from '../../src/importer/inside/in-root.ts';
import { resolveUser } from '../../src/importer/inside/users.ts';

const PASSWD = 'root:x:0:0:root:/root:/bin/sh\n# note\nbob:x:1000:1001::/home/bob:\nbroken\nlarge:x:70000:0::/:\n';
const GROUP = 'root:x:0:\nbob:x:1001:\nwheel:x:10:alice,bob\nvideo:x:44:bob\n';

test('the user, is looked up as Docker does', () => {
  const cases: [string, number, number, number[], string][] = [
    ['', 0, 0, [], '/root'],
    ['bob', 1000, 1001, [10, 44], '/home/bob'],
    ['1000', 1000, 1001, [10, 44], '/home/bob'],
    ['bob:video', 1000, 44, [], '/home/bob'],
    ['bob:9', 1000, 9, [], '/home/bob'],
    [':video', 0, 44, [], '/root'],
    ['4242', 4242, 0, [], '/'],
    ['4242:77', 4242, 77, [], '/'],
  ];
  for (const [spec, uid, gid, additionalGids, home] of cases) {
    assert.deepEqual(resolveUser(spec, PASSWD, GROUP), { uid, gid, additionalGids, home }, spec);
  }
  assert.deepEqual(resolveUser('', null, null), { uid: 0, gid: 0, additionalGids: [], home: '/' });
});

test('a user that the image does not have or no sandbox could be, is refused', () => {
  for (const spec of ['eve', 'bob:nogroup', 'bob:eve:x', '70000', 'large', '1:70000', '-1']) {
    assert.throws(() => resolveUser(spec, PASSWD, GROUP), { name: 'ImportFailure', code: 'image_refused' }, spec);
  }
});

test('a file behind links, is read inside the tree; what is no file, is not read', async () => {
  const root = await mkdtemp(join(tmpdir(), 'cocore-tree-'));
  try {
    await mkdir(join(root, 'etc'));
    await mkdir(join(root, 'real'));
    await writeFile(join(root, 'real/passwd'), 'inside');
    await symlink('../../../../real/passwd', join(root, 'etc/above'));
    await symlink('/real', join(root, 'absolute'));
    await symlink('/etc/hostname', join(root, 'etc/outside'));
    await symlink('loop', join(root, 'etc/loop'));
    execFileSync('mkfifo', [join(root, 'etc/pipe')]);
    await writeFile(join(root, 'etc/huge'), Buffer.alloc(2 * 1024 * 1024, 'x'));
    const tree = new Tree(root);
    assert.equal(await tree.readText('/etc/above'), 'inside');
    assert.equal(await tree.readText('/absolute/passwd'), 'inside');
    assert.equal(await tree.readText('/etc/../../../absolute/./passwd'), 'inside');
    for (const path of ['/etc/outside', '/etc/loop', '/etc/pipe', '/etc', '/none', '/real/passwd/below']) {
      assert.equal(await tree.readText(path), null, path);
    }
    assert.equal((await tree.readText('/etc/huge'))!.length, 1024 * 1024);
  } finally {
    await rm(root, { recursive: true });
  }
});
