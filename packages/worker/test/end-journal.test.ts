import assert from 'node:assert/strict';
import { type FileHandle, mkdir, open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { pino } from 'pino';
import { EndJournal, type EndJournalParts, type Log } from '../src/execution/end-journal.ts';
import { EndLog } from '../src/execution/end-log.ts';
import { endRecord, endsOnDisk, SigningKey } from './support/ends.ts';
import { eventually, workspace } from './support/workspace.ts';

const [ONE, TWO] = ['at_01m8515c5dec3ssmk0fssmppb1', 'at_01m8515c5dec3ssmk0fssmppb2'] as const;
const idOf = (at: number) => `at_${String(at).padStart(26, '0')}`;

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

  const openJournal = async (of: Partial<EndJournalParts> = {}) => {
    const opened = await EndJournal.open({
      directory,
      isOurs: (ended) => key.hasSigned(ended),
      log: pino({}, { write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>) }),
      ...of,
    });
    scope.use(opened.journal);
    return opened;
  };
  const lineOf = (attemptId: string, by = key) => `${JSON.stringify(endRecord(attemptId, by))}\n`;
  const oneLog = async () => {
    const names = await readdir(directory);
    assert.equal(names.length, 1, names.join());
    return join(directory, names[0]!);
  };

  test('an end that was written, the next life reads it, and not when it was removed', async () => {
    const { journal, left } = await openJournal();
    assert.deepEqual(left, []);
    const [one, two] = [endRecord(ONE, key), endRecord(TWO, key)];
    await journal.write(two);
    await journal.write(one);
    assert.equal((await stat(directory)).mode & 0o777, 0o700);
    assert.equal((await stat(await oneLog())).mode & 0o777, 0o600);
    await journal.remove(ONE);
    assert.deepEqual(endsOnDisk(directory), [TWO]);
    const next = await openJournal();
    assert.deepEqual(next.left, [two]);
    await next.journal.write(one);
    assert.deepEqual((await openJournal()).left, [one, two]);
    assert.deepEqual(lines, []);
  });

  test('a log, it is synced, then its directory is; from then on each end is written through to the disk', async (t) => {
    const { journal } = await openJournal();
    await using probe = await open(directory, 'r');
    const prototype = Object.getPrototypeOf(probe) as FileHandle;
    const sync: (this: FileHandle) => Promise<void> = Reflect.get(prototype, 'sync');
    const order: string[] = [];
    t.mock.method(prototype, 'sync', async function (this: FileHandle) {
      order.push(`${(await this.stat()).isDirectory() ? 'directory' : 'file'} with ${endsOnDisk(directory).join()}`);
      await sync.call(this);
    });
    await journal.write(endRecord(ONE, key));
    assert.deepEqual(order, [`file with ${ONE}`, `directory with ${ONE}`]);
    const writesThrough = async (fd: string) => {
      const flags = /^flags:\s+(\d+)$/m.exec(await readFile(`/proc/self/fdinfo/${fd}`, 'latin1'))![1]!;
      return (Number.parseInt(flags, 8) & 0o10000) !== 0;
    };
    // The descriptor that a durable line goes to is one that the kernel answers for only when the disk has it.
    const descriptors: boolean[] = [];
    const write = Reflect.get(prototype, 'write') as (this: FileHandle, ...given: unknown[]) => Promise<unknown>;
    t.mock.method(prototype, 'write', async function (this: FileHandle, ...given: unknown[]) {
      descriptors.push(await writesThrough(String(this.fd)));
      return write.apply(this, given);
    });
    await journal.write(endRecord(TWO, key));
    await journal.remove(TWO);
    assert.deepEqual(descriptors, [true, false]);
  });

  test('a removal that a power cut takes from the disk, the ends behind it are there', async () => {
    await mkdir(directory);
    const log = await EndLog.create(directory, '1.log', lineOf(ONE));
    scope.defer(() => log.close());
    const removal = `${JSON.stringify({ removed: ONE })}\n`;
    await log.append(removal, false);
    await using file = await open(log.path, 'r+');
    await file.write(Buffer.alloc(removal.length), 0, removal.length, lineOf(ONE).length);
    await log.append(lineOf(TWO), true);
    assert.deepEqual(endsOnDisk(directory), [TWO]);
    await log.append(removal, false);
    const written = lineOf(ONE) + removal + lineOf(TWO) + removal;
    assert.equal((await readFile(log.path, 'latin1')).replaceAll('\0', ''), written);
  });

  test('ends that come together, they are written together', async () => {
    const appended: string[] = [];
    const create = async (...at: Parameters<typeof EndLog.create>): Promise<Log> => {
      const log = await EndLog.create(...at);
      const append = (text: string, isDurable: boolean) => {
        appended.push(text);
        return log.append(text, isDurable);
      };
      return { path: log.path, hasRoom: (bytes) => log.hasRoom(bytes), append, close: () => log.close() };
    };
    const { journal } = await openJournal({ create });
    await journal.write(endRecord(idOf(0), key));
    await Promise.all(Array.from({ length: 50 }, (_, at) => journal.write(endRecord(idOf(at + 1), key))));
    assert.ok(appended.length <= 2, `${appended.length} writes`);
    assert.equal((await openJournal()).left.length, 51);
  });

  test('a log that is full, the next one has what is not acknowledged, and takes its place', async () => {
    const { journal } = await openJournal();
    await journal.write(endRecord(ONE, key));
    for (let at = 0; at < 3_000; at += 100) {
      const ids = Array.from({ length: 100 }, (_, of) => idOf(at + of));
      await Promise.all(ids.map((id) => journal.write(endRecord(id, key))));
      for (const id of ids) void journal.remove(id);
    }
    await journal.write(endRecord(TWO, key));
    assert.deepEqual(endsOnDisk(directory), [ONE, TWO]);
    assert.notEqual(await oneLog(), join(directory, '1.log'));
    assert.ok((await stat(await oneLog())).size < 2 ** 21);
    assert.deepEqual(
      (await openJournal()).left.map(({ ended }) => ended.attemptId),
      [ONE, TWO],
    );
  });

  test('a line that was torn by the end of the daemon, it is no end, and the others are read', async () => {
    await mkdir(directory);
    await writeFile(join(directory, '7.log'), lineOf(TWO) + lineOf(ONE).slice(0, 200));
    assert.deepEqual((await openJournal()).left, [endRecord(TWO, key)]);
    await writeFile(join(directory, '9.log'), lineOf(ONE) + lineOf(TWO).slice(0, 200) + '\0'.repeat(1000));
    assert.deepEqual((await openJournal()).left, [endRecord(ONE, key), endRecord(TWO, key)]);
    assert.deepEqual(lines, []);
  });

  const changed = () => {
    const record = endRecord(ONE, key);
    return `${JSON.stringify({ ...record, ended: { ...record.ended, outcome: { kind: 'exited', code: 7 } } })}\n`;
  };
  const FOREIGN: readonly (readonly [string, string, string])[] = [
    ['what another key has signed', 'its signature is not this worker’s', lineOf(ONE, new SigningKey())],
    ['an end whose facts were changed', 'its signature is not this worker’s', changed()],
    ['JSON that is no end', 'it is not an end', '{}\n'],
    ['what is no JSON', 'it is not JSON', `${lineOf(ONE).slice(0, 200)}\n`],
    ['a line without an end of its own', 'it is too long', `${' '.repeat(65_537)}\n`],
  ];
  for (const [what, why, line] of FOREIGN) {
    test(`${what}, its log is set aside, and what else is in it counts`, async () => {
      await mkdir(directory);
      await writeFile(join(directory, '3.log'), line + lineOf(TWO));
      assert.deepEqual((await openJournal()).left, [endRecord(TWO, key)]);
      assert.deepEqual(
        lines.map((said) => said['why'] ?? said['file']),
        [why, join(directory, '3.log.unreadable')],
      );
      assert.deepEqual((await readdir(directory)).sort(), ['3.log.unreadable', '4.log']);
      assert.equal((await openJournal()).left.length, 1);
      assert.equal(lines.length, 2);
    });
  }

  test('a directory in the place of a log, it is set aside', async () => {
    await mkdir(join(directory, '1.log'), { recursive: true });
    assert.deepEqual((await openJournal()).left, []);
    assert.match(JSON.stringify(lines[0]), /EISDIR/);
    assert.deepEqual(await readdir(directory), ['1.log.unreadable']);
  });

  test('a hundred logs that cannot be read, ten are kept for whoever looks', async () => {
    await mkdir(directory);
    for (let at = 1; at <= 100; at += 1) await writeFile(join(directory, `${at}.log`), 'torn\n');
    assert.deepEqual((await openJournal()).left, []);
    assert.equal((await readdir(directory)).length, 10);
  });

  test('a full disk, the attempt goes on and the log says that its end is in memory only', async () => {
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    let isFull = true;
    const create: EndJournalParts['create'] = (...at) => (isFull ? Promise.reject(full) : EndLog.create(...at));
    const { journal } = await openJournal({ create });
    await journal.write(endRecord(ONE, key));
    assert.equal(lines.length, 1);
    assert.match(String(lines[0]!['msg']), /could not be written down, and is kept in memory only/);
    assert.equal(lines[0]!['attemptId'], ONE);
    assert.match(JSON.stringify(lines[0]), /ENOSPC/);
    isFull = false;
    await journal.write(endRecord(TWO, key));
    // What was in memory only goes with the next.
    assert.deepEqual(endsOnDisk(directory), [ONE, TWO]);
  });

  test('a write that fails, the log says so; what it left is not read, and the next end goes to another log', async (t) => {
    const { journal } = await openJournal();
    await journal.write(endRecord(idOf(1), key));
    await using probe = await open(directory, 'r');
    const failed = Object.assign(new Error('EIO: i/o error, write'), { code: 'EIO' });
    const mocked = t.mock.method(Object.getPrototypeOf(probe) as FileHandle, 'write', () => Promise.reject(failed));
    await journal.write(endRecord(ONE, key));
    assert.match(JSON.stringify(lines), /EIO.*kept in memory only/);
    mocked.mock.restore();
    await journal.remove(ONE);
    await journal.write(endRecord(TWO, key));
    assert.deepEqual(endsOnDisk(directory), [idOf(1), TWO]);
    assert.match(await oneLog(), /2\.log$/);
  });

  test('a disk that hangs, the attempt goes on; what it wrote late is removed all the same', async () => {
    const hanging = Promise.withResolvers<void>();
    const create: EndJournalParts['create'] = async (...at) => {
      await hanging.promise;
      return EndLog.create(...at);
    };
    const { journal } = await openJournal({ create, patienceMs: 50 });
    await journal.write(endRecord(ONE, key));
    assert.match(String(lines[0]?.['msg']), /the disk takes too long/);
    const removed = journal.remove(ONE);
    hanging.resolve();
    await removed;
    assert.deepEqual(endsOnDisk(directory), []);
    await journal.write(endRecord(TWO, key));
    await eventually('the next one is written', async () => endsOnDisk(directory).join() === TWO);
  });

  test('a file for each end, as an earlier release wrote them, it is read', async () => {
    await mkdir(directory);
    await writeFile(join(directory, `${ONE}.json`), lineOf(ONE));
    assert.deepEqual((await openJournal()).left, [endRecord(ONE, key)]);
    assert.deepEqual(await readdir(directory), ['1.log']);
  });
});
