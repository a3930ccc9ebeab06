import { DatabaseSync } from 'node:sqlite';
import type { TestServer } from './test-server.ts';

const NAME = 'broken_by_a_test';

/**
 * Lets the server's own database refuse writes, by a trigger, until it is disposed.
 *
 * @param what such as `UPDATE OF stdout_bytes ON attempts`
 */
export function breakStore(server: TestServer, what: string, when = 'true'): Disposable {
  const change = (sql: string) => {
    const db = open(server);
    db.exec(sql);
    db.close();
  };
  change(`CREATE TRIGGER ${NAME} BEFORE ${what} WHEN ${when} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END`);
  return { [Symbol.dispose]: () => change(`DROP TRIGGER ${NAME}`) };
}

/** Lets the server's writes wait, five seconds at most, until it is disposed. */
export function holdStore(server: TestServer): Disposable {
  const db = open(server);
  db.exec('BEGIN IMMEDIATE');
  return { [Symbol.dispose]: () => db.close() };
}

function open(server: TestServer): DatabaseSync {
  const db = new DatabaseSync(`${server.directory.path}/data/cocore.db`);
  db.exec('PRAGMA busy_timeout = 5000');
  return db;
}
