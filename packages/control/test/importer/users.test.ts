import assert from 'node:assert/strict';
import { test } from 'node:test';
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
