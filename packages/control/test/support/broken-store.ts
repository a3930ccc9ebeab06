import { DatabaseSync } from 'node:sqlite';
import type { TestServer } from './test-server.ts';

/** All that an execution, an attempt or a session needs to go on. */
export const EVERY_WRITE = ['attempts', 'executions', 'workers', 'projects'].flatMap((table) => [
  `INSERT ON ${table}`,
  `UPDATE ON ${table}`,
]);

/**
 * Lets the server's own database refuse writes, by triggers, until it is disposed.
 *
 * @param writes such as `UPDATE OF stdout_bytes ON attempts`
 * @param when only for rows of which this is true
 */
export function breakStore(server: TestServer, writes: readonly string[], when = 'true'): Disposable {
  const change = (statements: string[]) => {
    const db = open(server);
    db.exec(['BEGIN IMMEDIATE', ...statements, 'COMMIT'].join(';'));
    db.close();
  };
  const refuse = (write: string, index: number) =>
    `CREATE TRIGGER broken_${index} BEFORE ${write} WHEN ${when} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END`;
  change(writes.map(refuse));
  return { [Symbol.dispose]: () => change(writes.map((_write, index) => `DROP TRIGGER broken_${index}`)) };
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
