import { randomFillSync } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { CocoreError } from '@cocore/protocol';
import { isDiskFailure } from '../../disk-failure.ts';
import type { Context } from './context.ts';
import { openDatabase } from './database.ts';
import { migrate } from './migrate.ts';
import { WRITE_VERBS } from './verbs.ts';
import type { FromThread, ToThread, WriteReply, WriteRequest } from './writer.ts';

/** Runs in a thread of its own: owns the one connection that writes. */
const { path, nowMs: startedAtMs } = workerData as { path: string; nowMs: number };
const port = parentPort!;
const db = openDatabase(path);
migrate(db, startedAtMs);

let nowMs = startedAtMs;
const context: Context = { db, now: () => nowMs, random: pooledRandom() };

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
  const verb = WRITE_VERBS[request.verb] as (context: Context, ...parameters: readonly unknown[]) => unknown;
  db.write(() => {
    nowMs = request.nowMs;
    return verb(context, ...request.parameters);
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

/** Asking the system for ten bytes costs as much as for a page of them. */
function pooledRandom(): (bytes: number) => Uint8Array {
  const pool = new Uint8Array(4096);
  let at = pool.length;
  return (bytes) => {
    if (at + bytes > pool.length) {
      randomFillSync(pool);
      at = 0;
    }
    at += bytes;
    return pool.slice(at - bytes, at);
  };
}
