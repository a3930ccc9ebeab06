import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { postgresSkip, TestPostgres } from '../../../packages/control/test/support/postgres.ts';
import { Apart } from '../support/stack.ts';

test(
  'records and output in PostgreSQL, executions end also after the server and the database were restarted',
  { skip: postgresSkip },
  async () => {
    await using postgres = await TestPostgres.start();
    const env = { COCORE_DATABASE_URL: await postgres.create() };
    await using apart = await Apart.start({ env, isolation: 'crun' });
    await apart.deploy('prints', 'head -c 300000 /dev/zero | tr "\\0" "$1"; sleep "$2"');
    const ended = async (id: string, letter: string) => {
      const { state, attempts } = await apart.client.executions.get(id, { waitMs: 60_000 });
      assert.deepEqual([state, attempts.length], ['success', 1]);
      assert.equal(await apart.stdout(id), letter.repeat(300_000));
    };
    const first = await apart.client.executions.create('prints', { args: ['a', '0'] });
    await ended(first.id, 'a');
    const second = await apart.client.executions.create('prints', { args: ['b', '3'] });
    await apart.restartServer();
    await postgres.stop('SIGQUIT');
    await postgres.run();
    await ended(second.id, 'b');
    await ended(first.id, 'a');
    assert.ok(!existsSync(join(apart.home.path, 'server', 'cocore.db')));
    assert.ok(!existsSync(join(apart.home.path, 'server', 'output')));
  },
);
