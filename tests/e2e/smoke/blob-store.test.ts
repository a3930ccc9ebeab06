import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { S3Server } from '../../../packages/control/test/support/s3/s3-server.ts';
import { Apart } from '../support/stack.ts';

describe('blobs in an S3-compatible store', () => {
  for (const how of ['through the server', 'from the store itself'] as const) {
    test(`a worker fetches ${how}, also after the server is restarted`, async () => {
      await using s3 = await S3Server.start();
      const { bucket, accessKeyId, secretAccessKey } = await s3.bucket();
      const env = {
        AWS_ACCESS_KEY_ID: accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
        COCORE_S3_ENDPOINT: s3.endpoint.origin,
        ...(how === 'from the store itself' ? { COCORE_S3_PUBLIC_ENDPOINT: s3.endpoint.origin } : {}),
      };
      const serverArgs = ['--blob-store', `s3://${bucket}/cocore`];
      await using apart = await Apart.start({ env, serverArgs, isolation: 'crun' });
      await apart.deploy('hash', 'sha256sum');
      for (const _life of [1, 2]) {
        const bytes = randomBytes(5 * 1024 * 1024);
        const hex = createHash('sha256').update(bytes).digest('hex');
        const blob = await apart.client.blobs.upload(bytes);
        const { id } = await apart.client.executions.create('hash', { stdin: { blob: blob.digest } });
        const ended = await apart.client.executions.get(id, { waitMs: 60_000 });
        assert.equal(ended.state, 'success', JSON.stringify(ended));
        assert.equal(await apart.stdout(id), `${hex}  -\n`);
        assert.ok(existsSync(join(apart.home.path, 'worker', 'blobs', hex)));
        assert.ok(!existsSync(join(apart.home.path, 'server', 'blobs', 'sha256')));
        await apart.restartServer();
      }
    });
  }
});
