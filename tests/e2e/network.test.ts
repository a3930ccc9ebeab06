import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { inLab, isInLab, Lab, PLACES } from '../../packages/worker/test/network/lab.ts';
import { Stack, temporary } from './support/stack.ts';

const FETCH = `
import sys, urllib.request
for url in sys.argv[1:]:
    try: print(urllib.request.urlopen(url, timeout=10).read().decode())
    except OSError: print("no")
`;

/** What a build with a registry does: it fetches a file, and leaves it as its layer. */
const BUILD = `
import io, os, tarfile, urllib.request
data = urllib.request.urlopen("http://${PLACES.second}/", timeout=10).read()
with tarfile.open(os.environ["COCORE_OUT"] + "/layer.tar", "w") as layer:
    member = tarfile.TarInfo("fetched.txt"); member.size = len(data)
    layer.addfile(member, io.BytesIO(data))
`;

const RECIPE = {
  name: 'fetched',
  extensions: ['.fetched'],
  image: { builtIn: 'base' },
  program: ['/bin/cat', '/function/made/fetched.txt'],
  build: {
    network: { allow: [`${PLACES.second}:80`] },
    command: ['/usr/bin/python3', '-c', BUILD],
    into: 'made',
  },
};

if (!isInLab) {
  test('the network of functions, on a host that is a network namespace', async () => {
    const { code, printed } = await inLab(fileURLToPath(import.meta.url));
    assert.equal(code, 0, printed);
  });
} else {
  describe('the network of functions', () => {
    const scope = new AsyncDisposableStack();
    let lab: Lab;
    let stack: Stack;
    let directory: string;
    before(async () => {
      lab = scope.use(await Lab.make());
      directory = scope.use(temporary()).path;
      const runtimes = join(directory, 'runtimes');
      mkdirSync(runtimes);
      writeFileSync(join(runtimes, 'fetched.json'), JSON.stringify(RECIPE));
      stack = scope.use(await Stack.dev('--runtimes', runtimes));
      writeFileSync(join(directory, 'fetch.py'), FETCH);
    });
    after(() => scope.disposeAsync());

    const deploy = (...options: string[]) => stack.cocore(['deploy', join(directory, 'fetch.py'), ...options]);
    const [listed, other] = [`http://${PLACES.listed}/`, `http://${PLACES.other}/`];

    test('what its deployment allows, it reaches, and nothing else; the record says what passed', async () => {
      assert.equal((await deploy('--allow', `${PLACES.listed}:80`, '--allow', '192.0.0.0/4')).code, 0);
      const lan = `http://${PLACES.lanNeighbour}/`;
      const { stdout, stderr } = await stack.cocore(['run', 'fetch', listed, other, lan]);
      assert.equal(stdout.toString(), `this is ${PLACES.listed}\nno\nno\n`, stderr);
      const { executions } = await stack.client.executions.list({ limit: 1 });
      const { id } = executions[0]!;
      const { egress } = (await stack.client.executions.get(id)).attempts[0]!.usage;
      assert.deepEqual([egress?.connections, egress?.refused, egress?.limited], [1, 2, false]);
      assert.match((await stack.cocore(['get', id])).stdout.toString(), /network +\d+ bytes sent, \d+ received/);
      assert.deepEqual(new Set((await lab.takeArrivals()).map(({ address }) => address)), new Set([PLACES.listed]));
    });

    test('without a list, it reaches nothing', async () => {
      assert.equal((await deploy()).code, 0);
      assert.equal((await stack.cocore(['run', 'fetch', listed])).stdout.toString(), 'no\n');
      assert.deepEqual(await lab.takeArrivals(), []);
    });

    test('an entry that is none, the command says which and why', async () => {
      const { code, stderr } = await deploy('--allow', 'localhost');
      assert.equal(code, 2);
      assert.match(stderr, /network\.allow\.0.*a name has a dot in it/);
      assert.match((await deploy('--allow', '192.168.0.0/16')).stderr, /not public, and reached by no function/);
    });

    test('a build, it reaches the registries of its recipe, and the function does not', async () => {
      writeFileSync(join(directory, 'built.fetched'), 'nothing\n');
      const deployed = await stack.cocore(['deploy', join(directory, 'built.fetched')]);
      assert.equal(deployed.code, 0, deployed.stderr);
      assert.equal((await stack.cocore(['run', 'built'])).stdout.toString(), `this is ${PLACES.second}`);
    });
  });
}
