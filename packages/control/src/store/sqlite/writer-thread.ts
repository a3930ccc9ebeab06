import { parentPort, workerData } from 'node:worker_threads';
import { CocoreError, IdMaker } from '@cocore/protocol';
import { isDiskFailure } from '../../disk-failure.ts';
import { pooledRandom } from '../pooled-random.ts';
import type { Context } from '../verbs/context.ts';
import { STATEMENTS } from '../verbs/statements.ts';
import { type AnyVerb, WRITE_VERBS } from '../verbs/verbs.ts';
import { openDatabase } from './database.ts';
import { migrate } from './migrate.ts';
import type { FromThread, ToThread, WriteReply, WriteRequest } from './writer.ts';

/** Runs in a thread of its own: owns the one connection that writes. */
const { path, nowMs: startedAtMs } = workerData as { path: string; nowMs: number };
const port = parentPort!;
const db = openDatabase(path);
migrate(db, startedAtMs);
// What a savepoint is rolled back from would be a file as soon as it has 64 KiB. Not before: a migration may sort a whole table.
db.exec('PRAGMA temp_store = MEMORY');

let nowMs = startedAtMs;
const context: Context = { db: STATEMENTS, now: () => nowMs, random: pooledRandom(), ids: new IdMaker() };

let replies: WriteReply[] = [];
const send = (message: FromThread) => port.postMessage(message);

function reply(one: WriteReply): void {
  if (replies.length === 0) {
    // The whole group settles before this runs.
    setImmediate(() => {
      send({ kind: 'replies', replies });
      replies = [];
    });
  }
  replies.push(one);
}

function perform(request: WriteRequest): void {
  const { id } = request;
  const verb = WRITE_VERBS[request.verb] as AnyVerb;
  db.write(() => {
    nowMs = request.nowMs;
    return db.drive(verb(context, ...request.parameters));
  }).then(
    (value) => reply({ id, value }),
    (error: unknown) => {
      if (!(error instanceof CocoreError)) {
        const failed = error instanceof Error ? (error.stack ?? error.message) : String(error);
        reply({ id, failed, isDisk: isDiskFailure(error) });
        return;
      }
      const { code, message, details } = error;
      reply({ id, refused: { code, message, details } });
    },
  );
}

port.on('message', (message: ToThread) => {
  if (message.kind === 'writes') {
    for (const request of message.writes) perform(request);
    return;
  }
  db.close();
  // What the last commit settled is answered first.
  setImmediate(() => setImmediate(() => port.close()));
});
send({ kind: 'ready' });
