import { type BlobRef, MAX_ARTIFACTS_LIMIT_BYTES } from '@cocore/protocol';
import type { Limits } from '../../admission.ts';
import type { CreatedExecution, NewFunctionVersion } from '../store.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { createExecutionOf } from './creation.ts';
import { addBlob, insertVersion } from './functions.ts';

export function* createBuild(context: Context, build: NewFunctionVersion, limits: Limits): Verb<CreatedExecution> {
  const { projectId, name } = build;
  const version = yield* insertVersion(context, { ...build, name: `${name}:build` }, limits, true);
  const execution = {
    projectId,
    function: version.function_id,
    args: [],
    env: {},
    stdin: null,
    files: [],
    timeoutMs: null,
    outputLimitBytes: null,
    idempotencyKey: null,
  };
  const making = { artifactsLimitBytes: MAX_ARTIFACTS_LIMIT_BYTES };
  return (yield* createExecutionOf(context, execution, version, limits, making)).created;
}

export function* keepLayer(
  context: Context,
  projectId: string,
  key: string,
  blob: BlobRef,
  limits: Limits,
): Verb<void> {
  yield* addBlob(context, projectId, blob, limits);
  yield* context.db.send(
    `INSERT INTO layers (project_id, layer_key, digest, bytes, used_at) VALUES (?, ?, ?, ?, ?)
     ON CONFLICT (project_id, layer_key) DO UPDATE SET digest = excluded.digest, bytes = excluded.bytes, used_at = excluded.used_at`,
    projectId,
    key,
    blob.digest,
    blob.bytes,
    context.now(),
  );
}

export function* useLayer({ db, now }: Context, projectId: string, key: string): Verb<BlobRef | null> {
  const layer = yield* db.get<{ digest: string; bytes: number }>(
    'SELECT digest, bytes FROM layers WHERE project_id = ? AND layer_key = ?',
    projectId,
    key,
  );
  if (layer === undefined) return null;
  yield* db.send('UPDATE layers SET used_at = ? WHERE project_id = ? AND layer_key = ?', now(), projectId, key);
  return { digest: layer.digest, bytes: layer.bytes };
}
