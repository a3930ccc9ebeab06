import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { open, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { suite, test } from 'node:test';
import { type BlobRef, CocoreError } from '@cocore/protocol';
import type { BlobBackend } from '../src/blobs/backend.ts';
import { BlobStore } from '../src/blobs/blob-store.ts';
import { temporaryDirectory } from './support/temporary.ts';

/** Gives a new, empty place each time, and the backend over it; the same place again when asked with it. */
export type MakeBackend<Place> = {
  place(directory: string): Promise<Place>;
  backend(place: Place): BlobBackend & Partial<Disposable>;
};

const refOf = (bytes: Uint8Array) => ({
  digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
  bytes: bytes.length,
});
const code = (wanted: string) => (error: unknown) => error instanceof CocoreError && error.code === wanted;

async function digests(store: BlobStore): Promise<string[]> {
  const found: string[] = [];
  for await (const { digest } of store.list()) found.push(digest);
  return found.sort();
}

export function blobStoreConformance<Place>(name: string, make: MakeBackend<Place>): void {
  /** An open store, and the same place opened again. */
  async function fixture() {
    const directory = temporaryDirectory();
    const place = await make.place(join(directory.path, 'place'));
    const scope = new AsyncDisposableStack();
    scope.use(directory);
    const opened = async (serverId = 'server-1') => {
      const backend = make.backend(place);
      scope.defer(() => backend[Symbol.dispose]?.());
      const store = new BlobStore(join(directory.path, 'blobs'), backend);
      await store.open(serverId);
      return store;
    };
    return {
      store: await opened(),
      opened,
      path: directory.path,
      [Symbol.asyncDispose]: () => scope.disposeAsync(),
    };
  }

  suite(`blob store on ${name}`, () => {
    test('bytes of any length, they come back whole, and from any byte on', async () => {
      await using made = await fixture();
      for (const length of [0, 1, 65_536, 3_000_001]) {
        const bytes = Buffer.alloc(length, `${length} `);
        assert.deepEqual(
          await made.store.put(Readable.from([bytes.subarray(0, 7), bytes.subarray(7)]), length),
          refOf(bytes),
        );
        for (const from of [0, 1, length >> 1, Math.max(0, length - 1)]) {
          const reading = await made.store.read(refOf(bytes).digest, from);
          const expected = from < length ? from : 0;
          assert.deepEqual([reading.bytes, reading.from], [length, expected]);
          assert.ok((await buffer(reading.stream)).equals(bytes.subarray(expected)), `${length} from ${from}`);
        }
        const beyond = await made.store.read(refOf(bytes).digest, length);
        assert.equal(beyond.from, 0);
        beyond.stream.destroy();
      }
    });

    test('a blob that is not there, it is not found', async () => {
      await using made = await fixture();
      const { digest } = refOf(Buffer.from('never'));
      await assert.rejects(made.store.read(digest), code('blob_not_found'));
      await assert.rejects(made.store.read(digest, 5), code('blob_not_found'));
      assert.equal(await made.store.removeUnless(digest, () => Promise.resolve(false)), true);
    });

    test('too many bytes, a source that breaks off, or no admission, nothing is left', async () => {
      await using made = await fixture();
      await assert.rejects(made.store.put(Readable.from([Buffer.alloc(11)]), 10), code('payload_too_large'));
      const broken = async function* () {
        yield Buffer.alloc(5);
        throw new Error('broken off');
      };
      await assert.rejects(made.store.put(broken(), 10), /broken off/);
      const refuse = () => Promise.reject(new Error('not admitted'));
      await assert.rejects(made.store.put(Readable.from([Buffer.alloc(9)]), 10, refuse), /not admitted/);
      assert.deepEqual(await digests(made.store), []);
      assert.deepEqual(await readdir(join(made.path, 'blobs', 'tmp')), []);
    });

    test('no admission for bytes that another has, the other’s stay', async () => {
      await using made = await fixture();
      const bytes = Buffer.from('shared');
      await made.store.put(Readable.from([bytes]), 10);
      const refuse = () => Promise.reject(new Error('not admitted'));
      await assert.rejects(made.store.put(Readable.from([bytes]), 10, refuse), /not admitted/);
      assert.ok((await buffer((await made.store.read(refOf(bytes).digest)).stream)).equals(bytes));
    });

    test('admission, it is asked when the bytes can be read', async () => {
      await using made = await fixture();
      const bytes = Buffer.from('admitted');
      await made.store.put(Readable.from([bytes]), 10, async ({ digest }) => {
        assert.ok((await buffer((await made.store.read(digest)).stream)).equals(bytes));
      });
    });

    test('many who put the same bytes at once, all succeed', async () => {
      await using made = await fixture();
      const bytes = Buffer.alloc(100_000, 'x');
      const puts = Array.from({ length: 8 }, () => made.store.put(Readable.from([bytes]), bytes.length));
      for (const put of puts) assert.deepEqual(await put, refOf(bytes));
      assert.deepEqual(await digests(made.store), [refOf(bytes).digest]);
    });

    test('a file of the host, it is kept once, stays where it is, and a changed one is another blob', async () => {
      await using made = await fixture();
      const path = join(made.path, 'large');
      const first = Buffer.alloc(200_000, 'first');
      await writeFile(path, first);
      assert.deepEqual(await made.store.adopt(path), refOf(first));
      const again = await made.opened();
      assert.deepEqual(await again.adopt(path), refOf(first));
      assert.ok((await readFile(path)).equals(first));
      const second = Buffer.alloc(200_000, 'second');
      await using file = await open(`${path}.new`, 'w');
      await file.writeFile(second);
      const other = await again.adopt(`${path}.new`);
      assert.deepEqual(other, refOf(second));
      assert.deepEqual(await digests(again), [refOf(first).digest, other.digest].sort());
    });

    test('a file whose digest is known, it is kept under it', async () => {
      await using made = await fixture();
      const path = join(made.path, 'large');
      const bytes = Buffer.alloc(200_000, 'known');
      await writeFile(path, bytes);
      const admitted: string[] = [];
      const admit = async ({ digest }: BlobRef) => void admitted.push(digest);
      assert.deepEqual(await made.store.adopt(path, admit, refOf(bytes)), refOf(bytes));
      assert.deepEqual(admitted, [refOf(bytes).digest]);
      assert.ok((await buffer((await made.store.read(refOf(bytes).digest)).stream)).equals(bytes));
    });

    test('a file that was adopted and removed, it is kept again', async () => {
      await using made = await fixture();
      const path = join(made.path, 'large');
      await writeFile(path, 'again');
      const { digest } = await made.store.adopt(path);
      await made.store.removeUnless(digest, () => Promise.resolve(false));
      await made.store.adopt(path);
      assert.equal((await buffer((await made.store.read(digest)).stream)).toString(), 'again');
    });

    test('a removal while the same bytes are put, what was admitted stays', async () => {
      await using made = await fixture();
      const bytes = Buffer.from('contended');
      const { digest } = refOf(bytes);
      let isNamed = false;
      await made.store.put(Readable.from([bytes]), 100);
      await Promise.all([
        made.store.put(Readable.from([bytes]), 100, () => {
          isNamed = true;
          return Promise.resolve();
        }),
        ...Array.from({ length: 5 }, () => made.store.removeUnless(digest, () => Promise.resolve(isNamed))),
      ]);
      assert.ok((await buffer((await made.store.read(digest)).stream)).equals(bytes));
      isNamed = false;
      assert.equal(await made.store.removeUnless(digest, () => Promise.resolve(isNamed)), true);
      assert.deepEqual(await digests(made.store), []);
    });

    test('the list, it names every blob and when it was kept', async () => {
      await using made = await fixture();
      const expected: string[] = [];
      for (let index = 0; index < 5; index += 1) {
        expected.push((await made.store.put(Readable.from([Buffer.from(`${index}`)]), 10)).digest);
      }
      const again = await made.opened();
      assert.deepEqual(await digests(again), expected.sort());
      for await (const { keptAtMs } of again.list()) assert.ok(Math.abs(keptAtMs - Date.now()) < 60_000, `${keptAtMs}`);
    });
  });
}
