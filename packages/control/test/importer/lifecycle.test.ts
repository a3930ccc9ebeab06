import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { ImportProgress } from '../../src/importer/image.ts';
import { image, push, tar } from './support/images.ts';
import { failsWith, openImporter, requestOf } from './support/importer.ts';
import { startRegistry } from './support/registry.ts';
import { inspect } from './support/rootfs.ts';
import { type Answer, scriptedRegistry } from './support/scripted-registry.ts';

const SIMPLE = image({
  layers: [
    tar([
      { name: 'b/one', content: '1', mtime: 10 },
      { name: 'a/two', content: '2', uid: 5, mode: 0o4711 },
      { name: 'a/link', type: '1', link: 'b/one' },
    ]),
    tar([
      {
        name: 'b/c/d/three',
        content: '3'.repeat(10_000),
        pax: { mtime: '1700000000.123456789', 'SCHILY.xattr.user.x': 'y' },
      },
    ]),
  ],
});
const pullsOf = (requests: readonly string[]) =>
  requests.filter((line) => line.startsWith('GET') && line.includes('/blobs/'));

/** Holds every answer to a layer until it is opened. */
function gated(): { answer: Answer; open: () => void; asked: Promise<void> } {
  const asked = Promise.withResolvers<void>();
  const opened = Promise.withResolvers<void>();
  const layers = new Map(SIMPLE.blobs.slice(1).map((one) => [one.digest, one]));
  return {
    answer: (request, response) => {
      const layer = layers.get(request.url!.slice(request.url!.lastIndexOf('/') + 1));
      if (layer === undefined) return false;
      asked.resolve();
      void opened.promise.then(() => response.writeHead(200).end(layer.bytes));
      return true;
    },
    open: () => opened.resolve(),
    asked: asked.promise,
  };
}

/** Processes in whose environment or arguments the text stands. */
async function processesWith(text: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    const facts = await Promise.all(
      ['environ', 'cmdline', 'mountinfo'].map((file) => readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => '')),
    );
    if (facts.some((fact) => fact.includes(text))) found.push(`${pid} ${facts[1]}`);
  }
  return found;
}

async function eventually(what: string, condition: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await condition()); tries += 1) {
    if (tries === 400) assert.fail(`${what} did not come about`);
    await sleep(50);
  }
}

describe('an import', { concurrency: 2 }, () => {
  test('of the same image elsewhere and later, makes the same bytes', async () => {
    await using registry = await scriptedRegistry(SIMPLE);
    const digests = [];
    // The second is a file system in memory, which lists directories in another order.
    for (const parent of [tmpdir(), '/dev/shm', tmpdir()]) {
      const directory = await mkdtemp(join(parent, 'cocore-importer-'));
      try {
        await using opened = await openImporter({ directory });
        await using imported = await opened.importer.import(requestOf(`${registry.host}/a`));
        digests.push(imported.rootfs.digest);
        const { files } = await inspect(imported.rootfs.path);
        assert.deepEqual([files.get('b/c/d/three')!.mtime, files.get('b/c')!.mtime], [1_700_000_000, 0]);
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    }
    assert.equal(new Set(digests).size, 1);
  });

  test('that many wait for, runs once, tells all, and outlives those who give up', async () => {
    const gate = gated();
    await using registry = await scriptedRegistry(SIMPLE, gate.answer);
    await using opened = await openImporter();
    const request = requestOf(`${registry.host}/a`);
    const told: ImportProgress[][] = [[], [], []];
    const leaving = new AbortController();
    const waiters = told.map((list, index) =>
      opened.importer.import(request, (progress) => list.push(progress), index === 0 ? leaving.signal : null),
    );
    await gate.asked;
    leaving.abort(new Error('gone'));
    await assert.rejects(waiters[0]!, /gone/);
    const late = opened.importer.import(request);
    gate.open();
    const [one, two, three] = await Promise.all([waiters[1]!, waiters[2]!, late]);
    assert.deepEqual([one.rootfs, two.rootfs], [two.rootfs, three.rootfs]);
    assert.equal(pullsOf(registry.requests).length, 3, 'the configuration and two layers, once each');
    for (const list of told.slice(1)) {
      assert.deepEqual(
        [...new Set(list.map(({ phase }) => phase))],
        ['waiting', 'resolving', 'pulling', 'unpacking', 'packing'],
      );
      assert.equal(list.at(-1)!.bytes, list.at(-1)!.totalBytes);
      assert.deepEqual([list.at(-1)!.layers, list.at(-1)!.totalLayers], [2, 2]);
    }
    for (const handle of [one, two, three]) await handle[Symbol.asyncDispose]();
  });

  test('that nobody waits for any more, ends with its processes and files', async () => {
    const gate = gated();
    await using registry = await scriptedRegistry(SIMPLE, gate.answer);
    await using opened = await openImporter();
    const leaving = new AbortController();
    const waiting = opened.importer.import(requestOf(`${registry.host}/a`), () => undefined, leaving.signal);
    await gate.asked;
    assert.notDeepEqual(await processesWith(opened.directory), []);
    leaving.abort(new Error('gone'));
    await assert.rejects(waiting, /gone/);
    await eventually('the end of the processes', async () => (await processesWith(opened.directory)).length === 0);
    await eventually(
      'the end of the files',
      async () => (await readdir(join(opened.directory, 'imports'))).length === 0,
    );
  });

  test('whose server is killed, leaves no process, and no file after the next start', async () => {
    const gate = gated();
    await using registry = await scriptedRegistry(SIMPLE, gate.answer);
    const directory = await mkdtemp(join(tmpdir(), 'cocore-importer-'));
    try {
      const script = fileURLToPath(new URL('support/killed-importer.ts', import.meta.url));
      const server = spawn(process.execPath, [script, directory, `${registry.host}/a`], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const said = createInterface({ input: server.stdout })[Symbol.asyncIterator]();
      while ((await said.next()).value !== 'pulling');
      await gate.asked;
      server.kill('SIGKILL');
      await once(server, 'exit');
      await eventually('the end of the processes', async () => (await processesWith(directory)).length === 0);
      assert.equal((await readdir(join(directory, 'imports'))).length, 1);
      await using opened = await openImporter({ directory });
      assert.deepEqual(await readdir(join(opened.directory, 'imports')), []);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });

  test('touches nothing outside of the importer’s own folder', async () => {
    const parent = await mkdtemp(join(tmpdir(), 'cocore-canary-'));
    try {
      await mkdir(join(parent, 'etc'));
      await writeFile(join(parent, 'etc/passwd'), 'canary');
      await mkdir(join(parent, 'importer'));
      const facts = async () => {
        const seen = [];
        for (const path of ['.', 'etc', 'etc/passwd']) {
          const { mode, uid, gid, nlink, mtimeNs, ctimeNs } = await lstat(join(parent, path), { bigint: true });
          seen.push([path, mode, uid, gid, nlink, mtimeNs, ctimeNs]);
        }
        return [seen, await readFile(join(parent, 'etc/passwd'), 'utf8'), await readdir(parent, { recursive: false })];
      };
      const before = await facts();
      const up = '../'.repeat(8);
      const hostile = image({
        layers: [
          tar([
            { name: 'out', type: '2', link: `${up}${parent}` },
            { name: 'out/etc/passwd', content: 'overwritten' },
            { name: `${up}${parent}/etc/passwd`, content: 'overwritten' },
            { name: 'hard', type: '1', link: `${up}${parent}/etc/passwd` },
          ]),
          tar([
            { name: 'out/etc/.wh.passwd' },
            { name: 'out/.wh..wh..opq' },
            { name: 'out/etc/new', content: 'x', mode: 0o777 },
          ]),
        ],
      });
      await using registry = await scriptedRegistry(hostile);
      await using opened = await openImporter({ directory: join(parent, 'importer') });
      await opened.importer.import(requestOf(`${registry.host}/a`)).then(
        (imported) => imported[Symbol.asyncDispose](),
        () => undefined,
      );
      assert.deepEqual(await facts(), before);
    } finally {
      await rm(parent, { recursive: true });
    }
  });

  // In memory: what is measured on a busy disk is the disk.
  test('of 200,000 small files, is whole', async () => {
    const directory = await mkdtemp('/dev/shm/cocore-importer-');
    const entries = Array.from({ length: 200_000 }, (_, index) => ({
      name: `d${index % 500}/f${index}`,
      content: String(index),
    }));
    await using registry = await scriptedRegistry(image({ layers: [tar(entries)] }));
    try {
      await using opened = await openImporter({ directory });
      await using imported = await opened.importer.import(requestOf(`${registry.host}/a`));
      assert.equal((await inspect(imported.rootfs.path)).files.size, 200_000 + 500 + 1);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});

describe('a layer', { concurrency: 2 }, () => {
  const base = tar([{ name: 'base', content: 'b'.repeat(1000) }]);
  const first = image({ layers: [base, tar([{ name: 'first', content: '' }])] });
  const second = image({ layers: [base, tar([{ name: 'second', content: '' }])] });

  test('that two images of a project have, is pulled once; another project pulls it for itself', async () => {
    await using registry = await scriptedRegistry(
      { ...second, blobs: [...first.blobs, ...second.blobs] },
      (request, response) => {
        if (!request.url!.includes('/first/manifests/')) return false;
        response.writeHead(200, { 'content-type': first.manifest.mediaType }).end(first.manifest.bytes);
        return true;
      },
    );
    await using opened = await openImporter();
    const shared = first.blobs[1]!.digest;
    const pulls = () => pullsOf(registry.requests).filter((line) => line.includes(shared)).length;
    for (const name of ['first', 'second']) {
      await using imported = await opened.importer.import(requestOf(`${registry.host}/${name}`));
      assert.ok((await inspect(imported.rootfs.path)).files.has(name));
    }
    assert.equal(pulls(), 1);
    for (const rest of [{ scope: 'other' }, { auth: { username: 'u', password: 'p' } }]) {
      const before = pulls();
      await using imported = await opened.importer.import(requestOf(`${registry.host}/second`, rest));
      assert.equal(pulls(), before + 1);
      assert.ok(imported.rootfs.bytes > 0);
    }
    // The same image again asks the registry for the manifest, and pulls nothing.
    const before = registry.requests.length;
    await using again = await opened.importer.import(requestOf(`${registry.host}/second`));
    assert.equal(pullsOf(registry.requests.slice(before)).length, 0);
    assert.ok(registry.requests.slice(before).some((line) => line.includes('/manifests/')));
    assert.ok(again.rootfs.bytes > 0);
  });

  test('that was spoiled in the store, is pulled again', async () => {
    await using registry = await scriptedRegistry(first, (request, response) => {
      if (!request.url!.includes('/second/')) return false;
      const found =
        [second.manifest, ...second.blobs].find(({ digest }) => request.url!.endsWith(digest)) ?? second.manifest;
      response.writeHead(200, { 'content-type': found.mediaType }).end(found.bytes);
      return true;
    });
    await using opened = await openImporter();
    await (await opened.importer.import(requestOf(`${registry.host}/first`)))[Symbol.asyncDispose]();
    const store = join(opened.directory, 'store');
    const layer = join(store, (await readdir(store))[0]!, 'layers', first.blobs[1]!.digest.slice('sha256:'.length));
    const { size } = await lstat(layer);
    await truncate(layer, 0);
    await truncate(layer, size);
    await using imported = await opened.importer.import(requestOf(`${registry.host}/second`));
    const { contents } = await inspect(imported.rootfs.path, ['base']);
    assert.equal(contents.get('base'), 'b'.repeat(1000));
  });

  test('that was not used for longest, goes when the store is over its budget, and what is held stays', async () => {
    await using registry = await scriptedRegistry(first);
    await using opened = await openImporter({ storeBytes: 1 });
    const files = async () => {
      const store = join(opened.directory, 'store');
      return (await readdir(store, { recursive: true })).filter((path) => /[0-9a-f]{64}/.test(path));
    };
    const held = await opened.importer.import(requestOf(`${registry.host}/first`));
    await eventually('the removal of the layers', async () =>
      (await files()).every((path) => path.includes('images/')),
    );
    assert.ok((await lstat(held.rootfs.path)).size > 0);
    await held[Symbol.asyncDispose]();
    await (
      await opened.importer.import(requestOf(`${registry.host}/first`, { scope: 'other' }))
    )[Symbol.asyncDispose]();
    await eventually(
      'the removal of what was held',
      async () => !(await files()).some((path) => held.rootfs.path.endsWith(path)),
    );
  });
});

test('a private image, needs its credentials', async () => {
  // The user `user` with the password `secret`.
  await using registry = await startRegistry('user:$2b$04$OP5CzP293taqr7n3uG5frulTdRJAw90kwD2U.KHKiFAfBMy9RBTw.\n');
  const authorization = `Basic ${Buffer.from('user:secret').toString('base64')}`;
  const reference = await push(registry.host, 'private/a', SIMPLE, { authorization });
  await using opened = await openImporter();
  for (const auth of [null, { username: 'user', password: 'wrong' }]) {
    await assert.rejects(
      opened.importer.import(requestOf(reference, { auth })),
      failsWith('image_unknown', /wants other credentials/),
    );
  }
  const auth = { username: 'user', password: 'secret' };
  await using imported = await opened.importer.import(requestOf(reference, { auth }));
  assert.ok(imported.rootfs.bytes > 0);
  for (const missing of [`${registry.host}/private/a:none`, `${registry.host}/private/none`]) {
    await assert.rejects(
      opened.importer.import(requestOf(missing, { auth })),
      failsWith('image_unknown', /has no such image/),
    );
  }
  await assert.rejects(
    opened.importer.import(requestOf('127.0.0.1:1/a')),
    failsWith('image_unknown', /does not answer/),
  );
});
