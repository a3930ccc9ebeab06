import assert from 'node:assert/strict';
import { type FileHandle, mkdir, open, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { pino } from 'pino';
import { EndJournal, type EndJournalParts } from '../src/execution/end-journal.ts';
import { endRecord, SigningKey } from './support/ends.ts';
import { eventually, workspace } from './support/workspace.ts';

const [ONE, TWO] = ['at_01m8515c5dec3ssmk0fssmppb1', 'at_01m8515c5dec3ssmk0fssmppb2'] as const;

describe('the journal of ends', () => {
  const key = new SigningKey();
  let scope: AsyncDisposableStack;
  let directory: string;
  let lines: Record<string, unknown>[];
  beforeEach(async () => {
    scope = new AsyncDisposableStack();
    directory = join(scope.use(await workspace()).path, 'ends');
    lines = [];
  });
  afterEach(() => scope.disposeAsync());

  const openJournal = (of: Partial<EndJournalParts> = {}) =>
    EndJournal.open({
      directory,
      isOurs: (ended) => key.hasSigned(ended),
      log: pino({}, { write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>) }),
      ...of,
    });

  test('an end that was written, the next life reads it, and not when it was removed', async () => {
    const { journal, left } = await openJournal();
    assert.deepEqual(left, []);
    const [one, two] = [endRecord(ONE, key), endRecord(TWO, key)];
    await journal.write(two);
    await journal.write(one);
    assert.equal((await stat(directory)).mode & 0o777, 0o700);
    assert.equal((await stat(join(directory, `${ONE}.json`))).mode & 0o777, 0o600);
    assert.deepEqual((await openJournal()).left, [one, two]);
    await journal.remove(ONE);
    assert.deepEqual((await openJournal()).left, [two]);
    assert.deepEqual(lines, []);
  });

  test('an end, its file is synced, then named, then its directory is synced', async (t) => {
    const { journal } = await openJournal();
    await using probe = await open(directory, 'r');
    const prototype = Object.getPrototypeOf(probe) as FileHandle;
    const sync: (this: FileHandle) => Promise<void> = Reflect.get(prototype, 'sync');
    const order: string[] = [];
    t.mock.method(prototype, 'sync', async function (this: FileHandle) {
      const names = (await readdir(directory)).join();
      order.push(`${(await this.stat()).isDirectory() ? 'directory' : 'file'} with ${names}`);
      await sync.call(this);
    });
    await journal.write(endRecord(ONE, key));
    assert.deepEqual(order, [`file with ${ONE}.json.new`, `directory with ${ONE}.json`]);
  });

  test('an entry that was torn, it is set aside with a line in the log, and the others are read', async () => {
    const { journal } = await openJournal();
    await journal.write(endRecord(ONE, key));
    await journal.write(endRecord(TWO, key));
    const path = join(directory, `${ONE}.json`);
    await writeFile(path, (await readFile(path, 'utf8')).slice(0, 200));
    assert.deepEqual((await openJournal()).left, [endRecord(TWO, key)]);
    assert.deepEqual((await readdir(directory)).sort(), [`${ONE}.json.unreadable`, `${TWO}.json`]);
    assert.equal(lines.length, 1);
    assert.match(String(lines[0]!['msg']), /cannot be read, and is set aside/);
    assert.equal(lines[0]!['file'], `${path}.unreadable`);
    assert.equal((await openJournal()).left.length, 1);
    assert.equal(lines.length, 1);
  });

  const FOREIGN: readonly (readonly [string, string, (path: string) => Promise<void>])[] = [
    [
      'what another key has signed',
      'its signature is not this worker’s',
      (path) => writeFile(path, JSON.stringify(endRecord(ONE, new SigningKey()))),
    ],
    [
      'an end whose facts were changed',
      'its signature is not this worker’s',
      async (path) => {
        const record = endRecord(ONE, key);
        const ended = { ...record.ended, outcome: { kind: 'exited', code: 7 } };
        await writeFile(path, JSON.stringify({ ...record, ended }));
      },
    ],
    [
      'another attempt’s end',
      'it is of another attempt',
      (path) => writeFile(path, JSON.stringify(endRecord(TWO, key))),
    ],
    ['JSON that is no end', 'it is not an end', (path) => writeFile(path, '{}')],
    ['an entry without an end of its own', 'it is too long', (path) => writeFile(path, ' '.repeat(65_537))],
    ['a directory', 'EISDIR: illegal operation on a directory, read', async (path) => void (await mkdir(path))],
  ];
  for (const [what, why, make] of FOREIGN) {
    test(`${what}, it is set aside`, async () => {
      await mkdir(directory);
      await make(join(directory, `${ONE}.json`));
      assert.deepEqual((await openJournal()).left, []);
      assert.equal(lines[0]?.['why'], why);
      assert.deepEqual(await readdir(directory), [`${ONE}.json.unreadable`]);
    });
  }

  test('a thousand entries that cannot be read, a hundred are kept for whoever looks', async () => {
    await mkdir(directory);
    for (let at = 0; at < 1_000; at += 1) {
      await writeFile(join(directory, `at_${String(at).padStart(26, '0')}.json`), 'torn');
    }
    assert.deepEqual((await openJournal()).left, []);
    assert.equal((await readdir(directory)).length, 100);
    assert.equal(lines.length, 1_000);
  });

  test('an end that was being written when the daemon died, it is no end', async () => {
    await mkdir(directory);
    await writeFile(join(directory, `${ONE}.json.new`), '{');
    assert.deepEqual((await openJournal()).left, []);
    assert.deepEqual(await readdir(directory), []);
    assert.deepEqual(lines, []);
  });

  test('a full disk, the attempt goes on and the log says that its end is in memory only', async () => {
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    const { journal } = await openJournal({ place: () => Promise.reject(full) });
    await journal.write(endRecord(ONE, key));
    assert.equal(lines.length, 1);
    assert.match(String(lines[0]!['msg']), /could not be written down, and is kept in memory only/);
    assert.equal(lines[0]!['attemptId'], ONE);
    assert.match(JSON.stringify(lines[0]), /ENOSPC/);
  });

  test('an fsync that fails, the log says so and nothing half written is left', async (t) => {
    const { journal } = await openJournal();
    await using probe = await open(directory, 'r');
    const failed = Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' });
    t.mock.method(Object.getPrototypeOf(probe) as FileHandle, 'sync', () => Promise.reject(failed));
    await journal.write(endRecord(ONE, key));
    assert.match(JSON.stringify(lines), /EIO.*kept in memory only/);
    assert.deepEqual(await readdir(directory), []);
  });

  test('a disk that hangs, the attempt goes on; what it wrote late is removed all the same', async () => {
    const hanging = Promise.withResolvers<void>();
    const place: EndJournalParts['place'] = async (where, name, text) => {
      await hanging.promise;
      await writeFile(join(where, `${name}.new`), text);
      await rename(join(where, `${name}.new`), join(where, name));
    };
    const { journal } = await openJournal({ place, patienceMs: 50 });
    await journal.write(endRecord(ONE, key));
    assert.match(String(lines[0]?.['msg']), /the disk takes too long/);
    const removed = journal.remove(ONE);
    hanging.resolve();
    await removed;
    assert.deepEqual(await readdir(directory), []);
    await journal.write(endRecord(ONE, key));
    await eventually('the next one is written', async () => (await readdir(directory)).length === 1);
  });
});
