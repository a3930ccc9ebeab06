import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { CocoreError, MAX_ARTIFACT_ENTRIES } from '@cocore/protocol';
import { type Headers, pack } from 'tar-stream';
import { unpack } from '../src/unpack.ts';

/** What an archive has in it; `pax` are extended attributes as they are written, whatever they say. */
type Item = Pick<Headers, 'name'> &
  Partial<Headers> & { readonly text?: string; readonly pax?: Readonly<Record<string, string>> };

function archiveOf(items: readonly Item[]): ReadableStream<Uint8Array> {
  const archive = pack();
  for (const { text = '', ...header } of items) archive.entry({ type: 'file', ...header }, text);
  archive.finalize();
  return Readable.toWeb(Readable.from(archive)) as ReadableStream<Uint8Array>;
}

function place(): Disposable & { readonly output: string; readonly outside: string } {
  const path = mkdtempSync(join(tmpdir(), 'cocore-unpack-'));
  return {
    output: join(path, 'output'),
    outside: join(path, 'outside'),
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

const hasCode = (code: string) => (error: unknown) => error instanceof CocoreError && error.code === code;

describe('unpacking', () => {
  test('files and directories, they are there with what they hold', async () => {
    using at = place();
    const files = await unpack(
      archiveOf([
        { name: 'a/', type: 'directory' },
        { name: 'a/b/c', text: 'deep' },
      ]),
      at.output,
      false,
    );
    assert.equal(files, 1);
    assert.equal(readFileSync(join(at.output, 'a', 'b', 'c'), 'utf8'), 'deep');
  });

  const HOSTILE: readonly (readonly [string, readonly Item[]])[] = [
    ['a path upwards', [{ name: '../outside', text: 'x' }]],
    ['a path upwards in its middle', [{ name: 'a/../../outside', text: 'x' }]],
    ['an absolute path', [{ name: `/${'x'.repeat(4)}`, text: 'x' }]],
    ['a path of a point', [{ name: 'a/./b', text: 'x' }]],
    ['a length that is no number', [{ name: 'f1', text: 'x', pax: { size: 'NaN' } }]],
    ['a symbolic link', [{ name: 'link', type: 'symlink', linkname: '..' }]],
    ['a hard link', [{ name: 'link', type: 'link', linkname: '/etc/passwd' }]],
    ['a device', [{ name: 'device', type: 'character-device' }]],
    ['a pipe', [{ name: 'pipe', type: 'fifo' }]],
    ['too many entries', Array.from({ length: MAX_ARTIFACT_ENTRIES + 1 }, (_, at) => ({ name: `f${at}` }))],
  ];
  for (const [what, items] of HOSTILE) {
    test(`${what}, it is refused and nothing is made outside`, async () => {
      using at = place();
      await assert.rejects(unpack(archiveOf(items), at.output, true), hasCode('archive_refused'));
      assert.ok(!existsSync(at.outside));
      assert.ok(readdirSync(at.output).every((name) => /^f\d+$/.test(name)));
    });
  }

  test('an archive that ends in the middle of a file, it is refused', async () => {
    using at = place();
    const whole = new Uint8Array(
      await new Response(archiveOf([{ name: 'file', text: 'x'.repeat(5000) }])).arrayBuffer(),
    );
    const cut = new Response(whole.slice(0, 3000)).body!;
    await assert.rejects(unpack(cut, at.output, false), hasCode('archive_refused'));
  });

  test('a link where a file goes, it is not followed, and with force it is replaced', async () => {
    using at = place();
    await unpack(archiveOf([]), at.output, false);
    writeFileSync(at.outside, 'mine');
    symlinkSync(at.outside, join(at.output, 'file'));
    const archive = () => archiveOf([{ name: 'file', text: 'theirs' }]);
    await assert.rejects(unpack(archive(), at.output, false), hasCode('file_exists'));
    await unpack(archive(), at.output, true);
    assert.equal(readFileSync(at.outside, 'utf8'), 'mine');
    assert.equal(readFileSync(join(at.output, 'file'), 'utf8'), 'theirs');
  });

  test('a file where a directory goes, it stays', async () => {
    using at = place();
    await unpack(archiveOf([{ name: 'a', text: 'file' }]), at.output, false);
    await assert.rejects(unpack(archiveOf([{ name: 'a/b', text: 'x' }]), at.output, true), hasCode('file_exists'));
    assert.equal(readFileSync(join(at.output, 'a'), 'utf8'), 'file');
  });
});
