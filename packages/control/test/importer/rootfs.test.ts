import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Contents } from '../../src/importer/inside/contents.ts';
import { writeRootfs } from '../../src/importer/inside/rootfs.ts';
import type { TarEntry } from '../../src/importer/inside/tar-entry.ts';
import { ImageTree } from '../../src/importer/inside/tree.ts';
import { inspect, sha256Sums } from './support/rootfs.ts';

type Entry = Partial<TarEntry> & { path: string; content?: Buffer | string };

/** A tree that is filled without an archive, and the image of it. */
async function made(layers: readonly (readonly Entry[])[], limits = { files: 100_000, depth: 128 }) {
  const directory = await mkdtemp(join(tmpdir(), 'cocore-tree-'));
  const image = join(directory, 'image');
  const tree = new ImageTree(limits.files, limits.depth);
  const contents = await Contents.open(image, join(directory, 'tails'));
  const dispose = async () => {
    await contents[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  };
  try {
    for (const layer of layers) {
      tree.beginLayer();
      for (const { content, ...entry } of layer) {
        const bytes = Buffer.from(content ?? '');
        let isKept = false;
        tree.apply(
          {
            type: 'file',
            linkTarget: '',
            mode: 0o644,
            uid: 0,
            gid: 0,
            bytes: bytes.length,
            modifiedAt: 1,
            ...entry,
          },
          () => {
            isKept = true;
            return contents.begin(bytes.length);
          },
        );
        if (isKept) contents.push(bytes);
        await contents.flush();
      }
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  return { image, tree, contents, [Symbol.asyncDispose]: dispose };
}

const link = (path: string, linkTarget: string): Entry => ({ path, type: 'symlink', linkTarget });
const hardlink = (path: string, linkTarget: string): Entry => ({ path, type: 'hardlink', linkTarget });
const digestOf = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');

test('files of all lengths, links and large directories, are what the kernel and fsck read', async () => {
  const lengths = [0, 1, 31, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 12_320, 12_321, 1_048_577];
  const files = lengths.map((length) => ({ path: `sizes/${length}`, content: randomBytes(length) }));
  // Of every fill of a directory's last block, and with names of every length.
  const crowds = [1, 40, 41, 339, 340, 341, 5000].map((count) =>
    Array.from({ length: count }, (_, index) => ({
      path: `crowd${count}/${'n'.repeat(index % 250)}${index}`,
      content: `${index}`,
    })),
  );
  const longLinks = [1, 4031, 4032, 4033, 4095].map((length) => link(`link${length}`, '/'.repeat(length - 1) + 'x'));
  await using target = await made([
    [
      ...files,
      ...crowds.flat(),
      ...longLinks,
      { path: 'pipe', type: 'fifo', bytes: 0 },
      { path: 'old', modifiedAt: 2 ** 33 - 1, uid: 65_535, gid: 65_534, mode: 0o7777, content: 'x' },
      { path: 'empty', type: 'directory', mode: 0o1777, modifiedAt: 7 },
      hardlink('sizes/again', 'sizes/4097'),
      hardlink('linked-link', 'link4095'),
    ],
  ]);
  await writeRootfs(target.tree.root, target.contents);
  execFileSync('fsck.erofs', ['--extract', target.image]);
  const { files: found } = await inspect(target.image);
  const sums = await sha256Sums(target.image);
  for (const { path, content } of [...files, ...crowds.flat()]) assert.equal(sums.get(path), digestOf(content), path);
  assert.equal(sums.get('sizes/again'), digestOf(files.find(({ path }) => path === 'sizes/4097')!.content));
  for (const { path, linkTarget } of longLinks) assert.equal(found.get(path)!.target, linkTarget);
  assert.deepEqual(
    [found.get('linked-link')!.links, found.get('link4095')!.links, found.get('link1')!.links],
    [2, 2, 1],
  );
  assert.equal(found.get('linked-link')!.inode, found.get('link4095')!.inode);
  const old = found.get('old')!;
  assert.deepEqual([old.mode, old.owner, old.mtime], ['7777', '65535:65534', 2 ** 33 - 1]);
  assert.deepEqual([found.get('pipe')!.type, found.get('empty')!.mode, found.get('empty')!.mtime], ['p', '1777', 7]);
  assert.deepEqual([found.get('')!.links, found.get('crowd340')!.links], [2 + crowds.length + 2, 2]);
  const names = files.length + crowds.flat().length + longLinks.length + 5 + crowds.length + 1 + 1;
  assert.equal(found.size, names);
  assert.equal(new Set([...found.values()].map(({ inode }) => inode)).size, names - 2);
});

test('a file that a later layer replaced or removed, takes no room', async () => {
  const content = (index: number) => randomBytes(index * 3000 + 10);
  const kept = Array.from({ length: 30 }, (_, index) => ({ path: `kept${index}`, content: content(index) }));
  const passing = kept.map((_, index) => ({ path: `passing${index}`, content: content(index) }));
  const mixed = kept.flatMap((one, index) => [passing[index]!, one]);
  await using target = await made([mixed, passing.map(({ path }) => ({ path: `.wh.${path}` }))]);
  await using plain = await made([kept]);
  await writeRootfs(target.tree.root, target.contents);
  await writeRootfs(plain.tree.root, plain.contents);
  assert.deepEqual(await readFile(target.image), await readFile(plain.image));
  const sums = await sha256Sums(target.image);
  for (const { path, content: bytes } of kept) assert.equal(sums.get(path), digestOf(bytes), path);
  assert.equal(sums.size, kept.length);
});

test('what a whiteout covers, is of earlier layers only', async () => {
  await using target = await made([
    [
      { path: 'a/one/old', content: '1' },
      { path: 'b/old', content: '1' },
      { path: 'c/d/old', content: '1' },
      { path: 'original', content: '1' },
      link('to-c', 'c'),
    ],
    [
      { path: 'a/one/new', content: '2' },
      { path: 'a/.wh.one' },
      { path: 'b/new', content: '2' },
      { path: 'b/.wh..wh..opq' },
      { path: 'to-c/d/new', content: '2' },
      { path: 'to-c/.wh..wh..opq' },
      hardlink('other', 'original'),
      { path: '.wh.original' },
      { path: 'none/.wh.nothing' },
      { path: '.wh.' },
      { path: '.wh...' },
    ],
  ]);
  await writeRootfs(target.tree.root, target.contents);
  const { files } = await inspect(target.image);
  assert.deepEqual(
    [...files.keys()].sort(),
    ['', 'a', 'a/one', 'a/one/new', 'b', 'b/new', 'c', 'c/d', 'c/d/new', 'other', 'to-c'].sort(),
  );
  assert.equal(files.get('other')!.links, 1);
});

test('layers that do not fit on each other, are refused', async () => {
  const file = { path: 'file', content: '' };
  const cases: [Entry[], RegExp][] = [
    [[file, { path: 'file/below' }], /file\/below is below something that is no directory/],
    [[link('loop', 'loop'), { path: 'loop/below' }], /no directory/],
    [[hardlink('new', 'none')], /new is a link to none/],
    [[{ path: 'd/f' }, hardlink('new', 'd')], /new is a link to d/],
    [[file, hardlink('file', 'file')], /file is a link to file/],
    [[link('long', 'n'.repeat(256)), { path: 'long/f' }], /too long/],
    [[link('deep', 'd/'.repeat(200)), { path: 'deep/f' }], /directories deep/],
  ];
  for (const [layer, message] of cases) {
    await assert.rejects(made([layer]), { name: 'ImportFailure', code: 'image_refused', message });
  }
  const many = Array.from({ length: 10 }, (_, index) => [
    link(`l${index}`, `/${index}/b/c/d/e/f/g/h/i`),
    { path: `l${index}/file` },
  ]);
  await assert.rejects(made([many.flat()], { files: 100, depth: 128 }), { code: 'image_too_large' });
});

test('a file behind links, is read inside the tree; what is no file, is not read', async () => {
  const huge = randomBytes(2 * 1024 * 1024 + 5);
  await using target = await made([
    [
      { path: 'real/passwd', content: 'inside' },
      link('etc/above', '../../../../real/passwd'),
      link('absolute', '/real'),
      link('etc/outside', '/etc/hostname'),
      link('etc/loop', 'loop'),
      { path: 'etc/pipe', type: 'fifo', bytes: 0 },
      { path: 'etc/huge', content: huge },
    ],
  ]);
  const { tree, contents } = target;
  for (const path of ['/etc/above', '/absolute/passwd', '/etc/../../../absolute/./passwd']) {
    assert.equal((await contents.read(tree.file(path)!, 100)).toString(), 'inside', path);
  }
  for (const path of ['/etc/outside', '/etc/loop', '/etc/pipe', '/etc', '/none', '/real/passwd/below']) {
    assert.equal(tree.file(path), null, path);
  }
  for (const bytes of [10, 2 * 1024 * 1024 + 3, huge.length, huge.length + 1]) {
    assert.ok(huge.subarray(0, bytes).equals(await contents.read(tree.file('/etc/huge')!, bytes)), String(bytes));
  }
});
