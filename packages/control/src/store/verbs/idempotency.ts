import { CocoreError } from '@cocore/protocol';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

/** A request that is made once, however often it comes. */
export interface KeyedRequest {
  readonly projectId: string;
  /** Keys of one scope are apart from those of others: a function's id, or empty for batches. */
  readonly scope: string;
  readonly key: string;
  /** Of what it asks for. */
  readonly digest: string;
}

/** The id of what an earlier request with the key made, while the key holds. @throws CocoreError `idempotency_conflict` */
export function* madeBefore({ db, now }: Context, request: KeyedRequest): Verb<string | null> {
  const earlier = yield* db.get<{ made_id: string; input_digest: string }>(
    `SELECT made_id, input_digest FROM idempotency_keys
     WHERE project_id = ? AND scope = ? AND idempotency_key = ? AND expires_at > ?`,
    request.projectId,
    request.scope,
    request.key,
    now(),
  );
  if (earlier === undefined) return null;
  if (earlier.input_digest === request.digest) return earlier.made_id;
  throw new CocoreError('idempotency_conflict', 'the idempotency key was used for another input', {
    details: { [request.scope === '' ? 'batchId' : 'executionId']: earlier.made_id },
  });
}

export function* rememberKey({ db, now }: Context, request: KeyedRequest, madeId: string, ttlMs: number): Verb<void> {
  // One that holds no more may not have been forgotten yet.
  yield* db.change(
    `INSERT INTO idempotency_keys (project_id, scope, idempotency_key, input_digest, made_id, expires_at)
     VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT (project_id, scope, idempotency_key) DO UPDATE
       SET input_digest = excluded.input_digest, made_id = excluded.made_id, expires_at = excluded.expires_at
       WHERE idempotency_keys.expires_at <= ?`,
    request.projectId,
    request.scope,
    request.key,
    request.digest,
    madeId,
    now() + ttlMs,
    now(),
  );
}

export function* forgetIdempotencyKeys({ db, now }: Context, limit: number): Verb<number> {
  return yield* db.run(
    `DELETE FROM idempotency_keys WHERE (project_id, scope, idempotency_key) IN
       (SELECT project_id, scope, idempotency_key FROM idempotency_keys WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`,
    now(),
    limit,
  );
}
