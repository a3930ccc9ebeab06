import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { image, push, tar } from '../../packages/control/test/importer/support/images.ts';
import { startRegistry, type TestRegistry } from '../../packages/control/test/importer/support/registry.ts';
import { Stack } from './support/stack.ts';

/** Says how it was started: the only program of its image, which has no shell. */
const SHOW = `
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
  char directory[200];
  gid_t groups[8];
  int known = getgroups(8, groups);
  for (int at = 0; at < count; at++) printf("%s|", words[at]);
  printf(" in %s as %d:%d", getcwd(directory, sizeof directory), getuid(), getgid());
  for (int at = 0; at < known; at++) printf(" +%d", groups[at]);
  printf(" home=%s greeting=%s\\n", getenv("HOME"), getenv("GREETING"));
  FILE *own = fopen("/srv/data/own", "w");
  printf("writes %s\\n", own ? "its own" : "nothing");
  return 0;
}
`;

/** `me:secret`, as htpasswd keeps it. */
const HTPASSWD = 'me:$2b$04$LVM.IvxIkT3YvSku1T8m3.4nlPSDj78CZTuex9sjgbqfAC0cG5ziG\n';

async function showProgram(): Promise<Buffer> {
  const directory = mkdtempSync(join(tmpdir(), 'cocore-e2e-show-'));
  try {
    writeFileSync(join(directory, 'show.c'), SHOW);
    await promisify(execFile)('cc', ['-static', '-Os', '-o', join(directory, 'show'), join(directory, 'show.c')]);
    return readFileSync(join(directory, 'show'));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const layerOf = (program: Buffer) =>
  tar([
    { name: 'bin/', type: '5' },
    { name: 'bin/show', content: program, mode: 0o755 },
    { name: 'etc/', type: '5' },
    { name: 'etc/passwd', content: 'root:x:0:0::/root:/bin/none\nme:x:1000:100::/home/me:/bin/none\n' },
    { name: 'etc/group', content: 'users:x:100:\nextra:x:7:me\n' },
    { name: 'srv/', type: '5' },
    { name: 'srv/data/', type: '5', uid: 1000, gid: 100 },
  ]);

const CONFIG = {
  Entrypoint: ['/bin/show', 'entry'],
  Cmd: ['default'],
  Env: ['PATH=/bin', 'GREETING=hello'],
  WorkingDir: '/srv/data',
  User: 'me',
};

describe('functions from container images', () => {
  let stack: Stack;
  let registry: TestRegistry;
  let layer: Buffer;

  const printed = async (args: string[]) => {
    const { code, stdout, stderr } = await stack.cocore(args);
    assert.equal(code, 0, stderr);
    return stdout.toString();
  };

  before(async () => {
    layer = layerOf(await showProgram());
    registry = await startRegistry();
    stack = await Stack.dev();
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  test('an image with everything set, it is run as Docker would', async () => {
    const reference = await push(registry.host, 'owner/show', image({ layers: [layer], config: CONFIG }), { tag: '1' });
    const deployed = await stack.cocore(['deploy', '--image', reference]);
    assert.equal(deployed.code, 0, deployed.stderr);
    assert.match(deployed.stdout.toString(), /^show version 1 /);
    assert.match(deployed.stderr, /pulling the image/);
    assert.equal(
      await printed(['run', 'show']),
      '/bin/show|entry|default| in /srv/data as 1000:100 +7 home=/home/me greeting=hello\nwrites its own\n',
    );
    const again = await printed(['run', '--env', 'GREETING=hi', 'show', 'more']);
    assert.match(again, /^\/bin\/show\|entry\|default\|more\| .* greeting=hi$/m);
  });

  test('a command that is given, it replaces the image’s arguments and not its entry point', async () => {
    const reference = `${registry.host}/owner/show:1`;
    const deployed = await stack.cocore(['deploy', '--image', reference, '--name', 'given', '--', 'one', '-x']);
    assert.equal(deployed.code, 0, deployed.stderr);
    assert.match(await printed(['run', 'given']), /^\/bin\/show\|entry\|one\|-x\| /);
  });

  test('a tag that is moved, what was deployed stays and the next version has the new', async () => {
    const config = (greeting: string) => ({ ...CONFIG, Env: [`GREETING=${greeting}`] });
    const put = (greeting: string) =>
      push(registry.host, 'owner/moved', image({ layers: [layer], config: config(greeting) }), { tag: 'now' });
    const reference = await put('old');
    const first = await stack.client.functions.deploy({ name: 'moved', image: { reference } });
    await put('new');
    assert.match(await printed(['run', 'moved']), /greeting=old$/m);
    const second = await stack.client.functions.deploy({ name: 'moved', image: { reference } });
    assert.match(await printed(['run', 'moved']), /greeting=new$/m);
    assert.deepEqual([first.source.kind, first.runtime, second.version], ['image', null, 2]);
    assert.notDeepEqual(first.source, second.source);
    assert.equal(first.imageDigest, second.imageDigest, 'the files are the same');
  });

  test('a registry that asks who it is, what docker login keeps is shown to it', async () => {
    await using closed = await startRegistry(HTPASSWD);
    const authorization = `Basic ${Buffer.from('me:secret').toString('base64')}`;
    const reference = await push(closed.host, 'show', image({ layers: [layer], config: CONFIG }), { authorization });
    const refused = await stack.cocore(['deploy', '--image', reference, '--name', 'closed']);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /^error image_unknown: /m);
    const docker = join(stack.home.env['HOME']!, '.docker');
    mkdirSync(docker, { recursive: true });
    const auths = { [closed.host]: { auth: Buffer.from('me:secret').toString('base64') } };
    writeFileSync(join(docker, 'config.json'), JSON.stringify({ auths }));
    const deployed = await stack.cocore(['deploy', '--image', reference, '--name', 'closed']);
    assert.equal(deployed.code, 0, deployed.stderr);
    assert.match(await printed(['run', 'closed']), /greeting=hello$/m);
  });

  test('an image that is not there, the deployment says so and the version before stays', async () => {
    const reference = `${registry.host}/owner/show:1`;
    await stack.client.functions.deploy({ name: 'kept', image: { reference } });
    const failed = await stack.cocore(['deploy', '--image', `${registry.host}/owner/absent:1`, '--name', 'kept']);
    assert.equal(failed.code, 2);
    assert.match(failed.stderr, /^error image_unknown: /m);
    assert.equal((await stack.client.functions.get('kept')).version, 1);
    assert.match(await printed(['run', 'kept']), /greeting=hello$/m);
  });
});
