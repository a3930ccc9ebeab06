import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { blob, image, type ImageParts, push, tar } from './support/images.ts';
import { failsWith, openImporter, requestOf } from './support/importer.ts';
import { startRegistry, type TestRegistry } from './support/registry.ts';
import { inspect } from './support/rootfs.ts';

const TIME = 1_700_000_000;
let registry: TestRegistry;
let opened: Awaited<ReturnType<typeof openImporter>>;
let names = 0;

before(async () => {
  registry = await startRegistry();
  opened = await openImporter();
});
after(async () => {
  await opened[Symbol.asyncDispose]();
  await registry[Symbol.asyncDispose]();
});

async function pushed(parts: ImageParts): Promise<string> {
  names += 1;
  return push(registry.host, `test/n${names}`, image(parts));
}

async function imported(parts: ImageParts, read: readonly string[] = []) {
  await using result = await opened.importer.import(requestOf(await pushed(parts)));
  return { ...(await inspect(result.rootfs.path, read)), config: result.config, rootfs: result.rootfs };
}

test('files of a layer, keep owner, mode, time, content and links', async () => {
  const { files, contents } = await imported(
    {
      layers: [
        tar([
          { name: 'bin/', type: '5', mode: 0o755, mtime: 5 },
          { name: 'bin/tool', content: 'tool', mode: 0o4755, uid: 3, gid: 4 },
          { name: 'bin/same', type: '1', link: 'bin/tool' },
          { name: 'home/private', content: 'x', mode: 0o000, uid: 65_535, gid: 65_535, mtime: 77 },
          { name: 'outside', type: '2', link: '../../../../etc/shadow' },
          { name: 'absolute', type: '2', link: '/etc/shadow' },
          { name: 'pipe', type: '6' },
          { name: 'dev/null', type: '3' },
          { name: 'dev/sda', type: '4' },
          { name: 'ünï', content: 'name' },
          { name: 'x', content: 'long', pax: { path: `${'d'.repeat(120)}/${'f'.repeat(200)}` } },
        ]),
      ],
    },
    ['bin/same', 'ünï', `${'d'.repeat(120)}/${'f'.repeat(200)}`],
  );
  const tool = files.get('bin/tool')!;
  assert.deepEqual([tool.type, tool.mode, tool.owner, tool.links, tool.mtime], ['f', '4755', '3:4', 2, TIME]);
  assert.equal(files.get('bin/same')!.inode, tool.inode);
  assert.equal(files.get('bin')!.mtime, 5);
  const secret = files.get('home/private')!;
  assert.deepEqual([secret.mode, secret.owner, secret.mtime], ['0', '65535:65535', 77]);
  assert.deepEqual(
    [files.get('outside')!.target, files.get('absolute')!.target],
    ['../../../../etc/shadow', '/etc/shadow'],
  );
  assert.equal(files.get('pipe')!.type, 'p');
  assert.equal(files.get('home')!.mtime, 0, 'a directory that no layer names has a fixed time');
  assert.deepEqual([files.has('dev/null'), files.has('dev/sda')], [false, false], 'device nodes are left out');
  assert.deepEqual([...contents.values()], ['tool', 'name', 'long']);
});

test('whiteouts and opaque directories, remove what is below and nothing else', async () => {
  const { files, contents } = await imported(
    {
      layers: [
        tar([
          { name: 'a/kept', content: '1' },
          { name: 'a/gone', content: '1' },
          { name: 'tree/deep/gone', content: '1' },
          { name: 'opaque/old', content: '1' },
          { name: 'opaque/sub/old', content: '1' },
          { name: 'turned', content: 'a file' },
        ]),
        tar([
          { name: 'a/.wh.gone' },
          { name: '.wh.tree' },
          { name: 'opaque/', type: '5' },
          { name: 'opaque/.wh..wh..opq' },
          { name: 'opaque/new', content: '2' },
          { name: '.wh..wh.plnk/1.2', content: 'bookkeeping' },
          { name: 'turned/', type: '5' },
          { name: 'turned/inside', content: '2' },
        ]),
        tar([
          { name: 'tree/', type: '5', mtime: 9 },
          { name: 'a/kept', content: '3' },
        ]),
      ],
    },
    ['a/kept', 'opaque/new'],
  );
  assert.deepEqual(
    [...files.keys()].sort(),
    ['', 'a', 'a/kept', 'opaque', 'opaque/new', 'tree', 'turned', 'turned/inside'].sort(),
  );
  assert.deepEqual([...contents.values()], ['3', '2']);
});

test('names that lead out of the root, stay inside', async () => {
  const { files } = await imported({
    layers: [
      tar([
        { name: '../../escape', content: 'x' },
        { name: '/absolute', content: 'x' },
        { name: 'link', type: '2', link: '/tmp' },
        { name: 'link/through', content: 'x' },
        { name: 'up', type: '2', link: '../../../..' },
        { name: 'up/work-file', content: 'x' },
        { name: 'hard', type: '1', link: '../../absolute' },
      ]),
    ],
  });
  assert.ok(files.has('escape') && files.has('absolute') && files.has('hard'));
  assert.equal(files.get('hard')!.inode, files.get('absolute')!.inode);
});

test('what to run, is what the image says', async () => {
  const { config } = await imported({
    layers: [tar([{ name: 'only', content: '' }])],
    config: {
      Entrypoint: ['/only', '--flag'],
      Cmd: ['a b', ''],
      Env: ['PATH=/x', 'EMPTY=', 'Ü=1'],
      WorkingDir: 'srv/app',
      StopSignal: 'SIGQUIT',
      ExposedPorts: { '80/tcp': {} },
    },
  });
  assert.deepEqual(config, {
    entrypoint: ['/only', '--flag'],
    command: ['a b', ''],
    environment: ['PATH=/x', 'EMPTY=', 'Ü=1'],
    workingDirectory: '/srv/app',
    user: { uid: 0, gid: 0, additionalGids: [], home: '/' },
    stopSignal: 'SIGQUIT',
  });
});

test('an image without a shell, an entrypoint or a layer, is imported', async () => {
  const { config, files } = await imported({ layers: [] });
  assert.deepEqual([config.entrypoint, config.command, config.workingDirectory], [[], [], '/']);
  assert.deepEqual([...files.keys()], ['']);
});

test('the user, is looked up in the image', async () => {
  const { config } = await imported({
    layers: [
      tar([
        { name: 'usr/lib/passwd', content: 'bob:x:7:8::/b:\n' },
        { name: 'etc/passwd', type: '2', link: '../../../../usr/lib/passwd' },
        { name: 'etc/group', content: 'video:x:44:bob\n' },
      ]),
    ],
    config: { User: 'bob' },
  });
  assert.deepEqual(config.user, { uid: 7, gid: 8, additionalGids: [44], home: '/b' });
  const layers = [tar([{ name: 'etc/passwd', type: '2', link: '/proc/self/environ' }])];
  const reference = await pushed({ layers, config: { User: 'root' } });
  await assert.rejects(opened.importer.import(requestOf(reference)), failsWith('image_refused', /user root is not/));
});

test('a working directory that is not there, is made; one that is a file, is refused', async () => {
  const layers = [
    tar([
      { name: 'data/', type: '5', uid: 5, gid: 5, mode: 0o700, mtime: 3 },
      { name: 'link', type: '2', link: '/../data' },
      { name: 'file', content: '' },
    ]),
  ];
  const { files } = await imported({ layers, config: { WorkingDir: '/link/new/../er' } });
  const made = files.get('data/er')!;
  assert.deepEqual([made.type, made.owner, made.mode, made.mtime], ['d', '0:0', '755', 0]);
  assert.deepEqual([files.get('data')!.owner, files.get('data')!.mtime], ['5:5', 3]);
  const reference = await pushed({ layers, config: { WorkingDir: '/file' } });
  await assert.rejects(opened.importer.import(requestOf(reference)), failsWith('image_refused', /working directory/));
});

test('Docker’s manifests, plain layers and zstd layers of many frames, are taken', async () => {
  const archive = tar([{ name: 'file', content: 'same' }]);
  const half = 700;
  const skippable = Buffer.concat([Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0]), Buffer.from('abc')]);
  const frames = () =>
    Buffer.concat([zstdCompressSync(archive.subarray(0, half)), skippable, zstdCompressSync(archive.subarray(half))]);
  const layer = 'application/vnd.oci.image.layer.v1.tar';
  const digests = new Set<string>();
  for (const parts of [
    { layers: [archive] },
    { layers: [archive], docker: true },
    { layers: [archive], compress: (bytes: Buffer) => bytes, layerType: layer },
    { layers: [archive], compress: frames, layerType: `${layer}+zstd` },
  ]) {
    const { contents, rootfs } = await imported(parts, ['file']);
    assert.equal(contents.get('file'), 'same');
    digests.add(rootfs.digest);
  }
  assert.equal(digests.size, 1, 'the file system does not depend on how the layers travelled');
});

test('of an index, the manifest for the platform is taken and pinned, attestations are not', async () => {
  const ours = image({ layers: [tar([{ name: 'ours', content: '' }])] });
  const other = image({ layers: [tar([{ name: 'other', content: '' }])], architecture: 'arm64' });
  const attestation = image({ layers: [tar([{ name: 'attestation', content: '' }])] });
  names += 1;
  const name = `test/n${names}`;
  for (const one of [other, ours, attestation]) await push(registry.host, name, one, { tag: one.manifest.digest });
  const entry = ({ manifest }: typeof ours, os: string, architecture: string) => ({
    mediaType: manifest.mediaType,
    digest: manifest.digest,
    size: manifest.size,
    platform: { os, architecture },
  });
  const document = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [
      entry(attestation, 'unknown', 'unknown'),
      entry(other, 'linux', 'arm64'),
      entry(ours, 'linux', 'amd64'),
      entry(attestation, 'unknown', 'unknown'),
    ],
  };
  const index = blob(document.mediaType, Buffer.from(JSON.stringify(document)));
  const reference = await push(registry.host, name, { manifest: index, blobs: [] });
  await using result = await opened.importer.import(requestOf(reference));
  assert.deepEqual(
    [result.indexDigest, result.manifestDigest, result.reference],
    [index.digest, ours.manifest.digest, `${registry.host}/${name}@${ours.manifest.digest}`],
  );
  assert.ok((await inspect(result.rootfs.path)).files.has('ours'));
  await using pinned = await opened.importer.import(requestOf(`${registry.host}/${name}@${index.digest}`));
  assert.equal(pinned.rootfs.digest, result.rootfs.digest);

  const without = { ...document, manifests: document.manifests.slice(0, 2) };
  const foreign = await push(registry.host, name, {
    manifest: blob(document.mediaType, Buffer.from(JSON.stringify(without))),
    blobs: [],
  });
  await assert.rejects(
    opened.importer.import(requestOf(foreign)),
    failsWith('image_refused', /for linux\/arm64, not for/),
  );
});

test('an image that umoci and skopeo made, is imported', async () => {
  const { mkdtemp, mkdir, rm, writeFile } = await import('node:fs/promises');
  const work = await mkdtemp('/tmp/cocore-umoci-');
  try {
    const layout = `${work}/layout:made`;
    await mkdir(`${work}/tree`);
    await writeFile(`${work}/tree/hello`, 'hello');
    execFileSync('umoci', ['init', '--layout', `${work}/layout`]);
    execFileSync('umoci', ['new', '--image', layout]);
    execFileSync('umoci', ['insert', '--image', layout, `${work}/tree`, '/opt']);
    execFileSync('umoci', ['config', '--image', layout, '--config.cmd', '/opt/hello', '--architecture', 'amd64']);
    const to = `docker://${registry.host}/test/umoci:1`;
    execFileSync('skopeo', ['--insecure-policy', 'copy', '-q', '--dest-tls-verify=false', `oci:${layout}`, to]);
    await using result = await opened.importer.import(requestOf(`${registry.host}/test/umoci:1`));
    const { contents } = await inspect(result.rootfs.path, ['opt/hello']);
    assert.deepEqual([contents.get('opt/hello'), result.config.command], ['hello', ['/opt/hello']]);
  } finally {
    await rm(work, { recursive: true });
  }
});
