import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DEFAULT_LIMITS } from '../../src/admission.ts';
import { BLOB, type StoreScene } from './store-scene.ts';

export function creating(scene: StoreScene): void {
  const { create, read, code, deploy, request } = scene;

  describe('creating', () => {
    test('a new execution, it is open with one queued attempt and can be read', async () => {
      const attempt = await create();
      const record = await read(attempt);
      assert.equal(record.state, 'open');
      assert.deepEqual(record.args, ['4', '9']);
      assert.deepEqual(
        record.attempts.map(({ id, number, state }) => ({ id, number, state })),
        [{ id: attempt.attemptId, number: 1, state: 'queued' }],
      );
    });

    test('rule 14: the same idempotency key and input, also at the same time and after a new deployment, one execution', async () => {
      const ask = () => scene.store.createExecutions([request({ idempotencyKey: 'once' })], DEFAULT_LIMITS);
      const answers = await Promise.all(Array.from({ length: 10 }, ask));
      await deploy('add');
      answers.push(await ask());
      assert.equal(new Set(answers.map(([one]) => one!.executionId)).size, 1);
      assert.equal(answers.filter(([one]) => one!.queued !== null).length, 1);
    });

    test('rule 14: the same idempotency key and another input, it is refused', async () => {
      await create({ idempotencyKey: 'once' });
      const bytes = { inline: Buffer.from('x') };
      for (const other of [{ args: ['5'] }, { env: { A: '1' } }, { stdin: bytes }, { timeoutMs: 1000 }]) {
        assert.equal(await code(create({ idempotencyKey: 'once', ...other })), 'idempotency_conflict');
      }
    });

    test('one bad execution in a list, none is made', async () => {
      const list = [request(), request({ function: 'nothing' })];
      assert.equal(await code(scene.store.createExecutions(list, DEFAULT_LIMITS)), 'function_not_found');
      assert.deepEqual((await scene.store.listExecutions(scene.projectId, { limit: 10 })).executions, []);
    });

    test('more live executions than the limit, it is refused until one has ended', async () => {
      const limits = { ...DEFAULT_LIMITS, maxLiveExecutions: 2 };
      const [first] = await scene.store.createExecutions([request(), request()], limits);
      assert.equal(await code(scene.store.createExecutions([request()], limits)), 'quota_exceeded');
      await scene.store.requestCancel(scene.projectId, first!.executionId);
      assert.equal((await scene.store.createExecutions([request()], limits)).length, 1);
    });

    test('a blob or function of another project, it is as if there were none', async () => {
      const other = await scene.store.ensureProject('other');
      await deploy('theirs', other);
      const digest = `sha256:${'b'.repeat(64)}`;
      await scene.store.addBlob(other, { digest, bytes: 1 }, DEFAULT_LIMITS);
      assert.equal(await code(create({ function: 'theirs' })), 'function_not_found');
      assert.equal(await code(create({ stdin: { blob: digest } })), 'blob_not_found');
      const attempt = await create();
      assert.equal(await scene.store.readExecution(other, attempt.executionId), null);
      assert.equal(await scene.store.requestCancel(other, attempt.executionId), null);
    });

    test('blobs that nothing of a project names, it loses them after their time and no others', async () => {
      const other = await scene.store.ensureProject('other');
      const [used, unused, renewed] = ['b', 'c', 'd'].map((letter) => `sha256:${letter.repeat(64)}`);
      const add = (project: string, digest: string) =>
        scene.store.addBlob(project, { digest, bytes: 1 }, DEFAULT_LIMITS);
      const file = `sha256:${'f'.repeat(64)}`;
      for (const digest of [used!, unused!, renewed!, file]) await add(scene.projectId, digest);
      await create({
        files: [
          { name: 'a', blob: file },
          { name: 'b', blob: file },
        ],
      });
      // That one project uses it keeps it for no other.
      await add(other, used!);
      await create({ stdin: { blob: used! } });
      scene.clock.advance(1000);
      await add(scene.projectId, renewed!);
      await scene.store.forgetUnusedBlobs({ layersMs: 1000, blobsMs: 1000 });
      assert.equal(await scene.store.isBlobNeeded(unused!), true, 'not yet');
      scene.clock.advance(1);
      await scene.store.forgetUnusedBlobs({ layersMs: 1000, blobsMs: 1000 });
      assert.equal(await code(create({ stdin: { blob: unused! } })), 'blob_not_found');
      assert.equal(await scene.store.isBlobNeeded(unused!), false);
      for (const digest of [used!, renewed!]) await create({ stdin: { blob: digest } });
      await deploy('theirs', other);
      const theirs = request({ projectId: other, function: 'theirs', stdin: { blob: used! } });
      assert.equal(await code(scene.store.createExecutions([theirs], DEFAULT_LIMITS)), 'blob_not_found');
      for (const digest of [used!, renewed!, file, BLOB.digest])
        assert.equal(await scene.store.isBlobNeeded(digest), true);
    });

    test('an image that no project has, a version that names it needs it', async () => {
      const image = { digest: `sha256:${'e'.repeat(64)}`, bytes: 5 };
      assert.equal(await scene.store.isBlobNeeded(image.digest), false);
      await deploy('imaged', scene.projectId, 'container', image);
      assert.equal(await scene.store.isBlobNeeded(image.digest), true);
    });

    test('a list, newest first, page by page', async () => {
      const ids: string[] = [];
      for (let at = 0; at < 5; at += 1) {
        scene.clock.advance(1);
        ids.unshift((await create()).executionId);
      }
      const first = await scene.store.listExecutions(scene.projectId, { limit: 3 });
      const second = await scene.store.listExecutions(scene.projectId, { limit: 3, cursor: first.next! });
      assert.deepEqual(
        [...first.executions, ...second.executions].map(({ id }) => id),
        ids,
      );
      assert.equal(second.next, null);
    });
  });
}
