import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { type Database, openDatabase } from '../src/store/sqlite/database.ts';
import { readMigrationsOf } from '../src/store/migrations.ts';
import { migrate, readMigrations } from '../src/store/sqlite/migrate.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { BUILT_IN_SURROUNDINGS } from '../src/runtimes/recipe.ts';
import { storeConformance } from './store.conformance.ts';
import { temporaryDatabase, temporaryDirectory } from './support/temporary.ts';

storeConformance('SQLite', (path, now) => openSqliteStore({ path, now }), temporaryDatabase);

test('a process killed with SIGKILL, every write that it acknowledged is there', async () => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 'db');
  const child = spawn(process.execPath, [join(import.meta.dirname, 'support', 'acknowledge-writes.ts'), path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const acknowledged: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    acknowledged.push(line);
    if (acknowledged.length === 500) child.kill('SIGKILL');
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  const store = await openSqliteStore({ path });
  const projectId = await store.ensureProject('default');
  for (const executionId of acknowledged) assert.ok(await store.readExecution(projectId, executionId), executionId);
  assert.ok(acknowledged.length >= 500);
  await store.close();
});

describe('group commit', () => {
  function open(path: string): Database {
    const database = openDatabase(path);
    database.exec('CREATE TABLE t (value INTEGER PRIMARY KEY) STRICT');
    return database;
  }
  const values = (database: Database) =>
    database.all<{ value: number }>('SELECT value FROM t ORDER BY value').map(({ value }) => value);

  test('a database opened for writing, every commit waits for the disk', () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    // 2 is FULL. That a process was killed cannot show it: the kernel keeps what the process wrote.
    assert.deepEqual({ ...database.get('PRAGMA synchronous') }, { synchronous: 2 });
    assert.deepEqual({ ...database.get('PRAGMA journal_mode') }, { journal_mode: 'wal' });
    assert.deepEqual({ ...database.get('PRAGMA foreign_keys') }, { foreign_keys: 1 });
    database.close();
  });

  test('writes of one turn, they are one transaction, and none is answered before its commit', async () => {
    using directory = temporaryDirectory();
    const database = open(join(directory.path, 'db'));
    const other = openDatabase(join(directory.path, 'db'));
    const answers = [1, 2, 3].map((value) =>
      database
        .write(() => {
          // Another connection sees nothing of the group while it runs.
          assert.deepEqual(values(other), []);
          database.run('INSERT INTO t VALUES (?)', value);
          return values(database).length;
        })
        .then((seen) => ({ seen, committed: values(other) })),
    );
    assert.deepEqual(
      await Promise.all(answers),
      [1, 2, 3].map((seen) => ({ seen, committed: [1, 2, 3] })),
    );
    other.close();
    database.close();
  });

  test('a write that throws after it has written, only its own writes are undone', async () => {
    using directory = temporaryDirectory();
    const database = open(join(directory.path, 'db'));
    const insert = (value: number) => () => database.run('INSERT INTO t VALUES (?)', value);
    const results = await Promise.allSettled([
      database.write(insert(1)),
      database.write(() => {
        insert(2)();
        throw new Error('no');
      }),
      database.write(insert(1)),
      database.write(insert(4)),
    ]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['fulfilled', 'rejected', 'rejected', 'fulfilled'],
    );
    assert.deepEqual(values(database), [1, 4]);
    database.close();
  });

  test('a commit that fails, every write of the group is refused and none is kept', async () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    database.exec(
      'CREATE TABLE p (id INTEGER PRIMARY KEY) STRICT; CREATE TABLE c (id INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED) STRICT',
    );
    const results = await Promise.allSettled([
      database.write(() => database.run('INSERT INTO p VALUES (1)')),
      database.write(() => database.run('INSERT INTO c VALUES (99)')),
    ]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['rejected', 'rejected'],
    );
    assert.deepEqual(database.all('SELECT * FROM p'), []);
    await database.write(() => database.run('INSERT INTO p VALUES (2)'));
    database.close();
  });

  test('a closed database, pending writes are committed and later ones refused', async () => {
    using directory = temporaryDirectory();
    const database = open(join(directory.path, 'db'));
    const pending = database.write(() => database.run('INSERT INTO t VALUES (1)'));
    database.close();
    assert.equal(await pending, 1);
    await assert.rejects(
      database.write(() => 1),
      /closed/,
    );
  });
});

describe('migrations', () => {
  test('a migration whose text has changed, the database is refused', () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    migrate(database, 0);
    migrate(database, 0);
    const changed = readMigrations().map((migration) => ({ ...migration, sha256: 'other' }));
    assert.throws(() => migrate(database, 0, changed), /another text/);
    assert.throws(() => migrate(database, 0, []), /newer version/);
    database.close();
  });

  test('files that are not numbered in order, they are refused', () => {
    using directory = temporaryDirectory();
    const migrations = join(directory.path, 'm');
    mkdirSync(migrations);
    writeFileSync(join(migrations, '0002-second.sql'), '');
    assert.throws(() => readMigrationsOf(migrations), /is not number 1/);
  });

  test('a version from before classes were asked for, it requires the strong default', () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    migrate(database, 0, readMigrations().slice(0, 1));
    database.exec(`INSERT INTO projects VALUES ('p', 'p', 0, 0); INSERT INTO functions VALUES ('p', 'f', 'f', 1, 0);
      INSERT INTO function_versions VALUES ('p', 'f', 1, 'bash', 'f', '', 0, '', 0, 128, 1, 1, 1, '{}', 0)`);
    migrate(database, 0);
    assert.deepEqual({ ...database.get('SELECT isolation FROM function_versions') }, { isolation: 'gvisor' });
    assert.throws(() => database.exec("UPDATE function_versions SET isolation = 'paper'"), /CHECK/);
    database.close();
  });

  test('a version from before it said how it is started, it is started as it was', () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    migrate(database, 0, readMigrations().slice(0, 2));
    database.exec(`INSERT INTO projects VALUES ('p', 'p', 0, 0); INSERT INTO functions VALUES ('p', 'f', 'f', 2, 0);
      INSERT INTO function_versions VALUES ('p', 'f', 1, 'bash', 'f.sh', '', 0, '', 0, 128, 1, 1, 1, '{}', 0, 'gvisor');
      INSERT INTO function_versions VALUES ('p', 'f', 2, 'python', 'f.py', '', 0, '', 0, 128, 1, 1, 1, '{}', 0, 'gvisor');
      INSERT INTO executions (project_id, execution_id, function_id, version, state, args, env, memory_mib, cpus, timeout_ms,
        output_limit_bytes, input_digest, created_at, queue_expires_at)
      VALUES ('p', 'e', 'f', 1, 'open', '[]', '{}', 128, 1, 1, 1, '', 0, 0)`);
    migrate(database, 0);
    const rows = database.all<{ source: string; process: string }>('SELECT source, process FROM function_versions');
    const files = ['f.sh', 'f.py'];
    const commands = [
      ['/bin/bash', '/function/f.sh'],
      ['/usr/bin/python3', '/function/f.py'],
    ];
    const unbuffered = [{}, { PYTHONUNBUFFERED: '1' }];
    for (const [index, name] of files.entries()) {
      assert.deepEqual(JSON.parse(rows[index]!.source), { kind: 'file', name });
      const { env, cwd, user } = BUILT_IN_SURROUNDINGS;
      assert.deepEqual(JSON.parse(rows[index]!.process), {
        argv: commands[index],
        env: { ...env, ...unbuffered[index] },
        cwd,
        user,
        stopSignal: null,
      });
    }
    assert.deepEqual(database.all('PRAGMA foreign_key_check'), []);
    database.close();
  });

  test('executions from before their blobs were noted, those of standard input and files are', () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    migrate(database, 0, readMigrations().slice(0, 6));
    const files = JSON.stringify([
      { name: 'a', base64: '' },
      { name: 'b', digest: 'one', bytes: 1 },
    ]);
    database.exec(`INSERT INTO projects VALUES ('p', 'p', 0, 0); INSERT INTO functions VALUES ('p', 'f', 'f', 1, 0);
      INSERT INTO function_versions (project_id, function_id, version, runtime, code_digest, code_bytes, image_digest, image_bytes,
        memory_mib, cpus, timeout_ms, output_limit_bytes, env, deployed_at)
      VALUES ('p', 'f', 1, 'bash', '', 0, '', 0, 128, 1, 1, 1, '{}', 0)`);
    for (const [id, stdin, column] of [
      ['e1', 'one', files],
      ['e2', null, files],
      ['e3', 'two', null],
      ['e4', null, null],
    ]) {
      database.run(
        `INSERT INTO executions (project_id, execution_id, function_id, version, state, args, env, memory_mib, cpus, timeout_ms,
           output_limit_bytes, input_digest, created_at, queue_expires_at, stdin_digest, files)
         VALUES ('p', ?, 'f', 1, 'open', '[]', '{}', 128, 1, 1, 1, '', 0, 0, ?, ?)`,
        id!,
        stdin!,
        column!,
      );
    }
    migrate(database, 0);
    const rows = database.all<{ named: string }>("SELECT digest || ' ' || execution_id AS named FROM execution_blobs");
    assert.deepEqual(
      rows.map(({ named }) => named),
      ['one e1', 'one e2', 'two e3'],
    );
    database.close();
  });

  test('a key from before keys had a time, it holds for a day from its use', async () => {
    using directory = temporaryDirectory();
    const path = join(directory.path, 'db');
    const database = openDatabase(path);
    migrate(database, 0, readMigrations().slice(0, 9));
    database.exec(`INSERT INTO projects VALUES ('p', 'default', 0, 0); INSERT INTO functions VALUES ('p', 'f', 'f', 1, 0, 0);
      INSERT INTO function_versions (project_id, function_id, version, runtime, code_digest, code_bytes, image_digest, image_bytes,
        memory_mib, cpus, timeout_ms, output_limit_bytes, env, deployed_at)
      VALUES ('p', 'f', 1, 'bash', '', 0, '', 0, 128, 1, 1, 1, '{}', 0);
      INSERT INTO executions (project_id, execution_id, function_id, version, state, args, env, memory_mib, cpus, timeout_ms,
        output_limit_bytes, input_digest, created_at, queue_expires_at, idempotency_key)
      VALUES ('p', 'e1', 'f', 1, 'open', '[]', '{}', 128, 1, 1, 1, 'other', 5, 0, 'k')`);
    database.close();
    let nowMs = 5 + 86_400_000 - 1;
    const store = await openSqliteStore({ path, now: () => nowMs });
    const execution = { projectId: 'p', function: 'f', args: [], env: {}, stdin: null, files: [] };
    const request = { ...execution, timeoutMs: null, outputLimitBytes: null, idempotencyKey: 'k' };
    const refused = await store.createExecutions([request], DEFAULT_LIMITS).catch((error: unknown) => error);
    assert.ok(refused instanceof CocoreError);
    assert.deepEqual([refused.code, refused.details['executionId']], ['idempotency_conflict', 'e1']);
    nowMs += 1;
    assert.notEqual((await store.createExecutions([request], DEFAULT_LIMITS))[0]?.queued, null);
    await store.close();
  });

  test('a migration that fails half-way, nothing of it is kept', () => {
    using directory = temporaryDirectory();
    const database = openDatabase(join(directory.path, 'db'));
    const broken = { number: 1, name: '0001-x.sql', sha256: 'x', sql: 'CREATE TABLE a (x INTEGER) STRICT; nonsense' };
    assert.throws(() => migrate(database, 0, [broken]));
    assert.deepEqual(database.all("SELECT name FROM sqlite_master WHERE name = 'a'"), []);
    database.close();
  });
});
