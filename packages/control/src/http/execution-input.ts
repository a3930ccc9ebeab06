import {
  CocoreError,
  type ExecutionCreate,
  fromBase64,
  type InputFile,
  MAX_EVENT_BYTES,
  MAX_INLINE_FILES_BYTES,
  MAX_INLINE_STDIN_BYTES,
  type StdinSource,
} from '@cocore/protocol';
import type { NewExecution, NewStdin } from '../store/store.ts';

/** What the store is asked to record for a request. @throws CocoreError `input_too_large` */
export function newExecution(
  projectId: string,
  name: string,
  body: Omit<ExecutionCreate, 'idempotencyKey'>,
  idempotencyKey: string | null,
): NewExecution {
  return {
    projectId,
    function: name,
    args: body.args,
    env: body.env,
    stdin: body.event === undefined ? stdinOf(body.stdin) : eventInput(body.event),
    files: checkedFiles(body.files),
    timeoutMs: body.timeoutMs ?? null,
    outputLimitBytes: body.outputLimitBytes ?? null,
    retries: body.retries,
    priority: body.priority,
    concurrency:
      body.concurrencyKey === undefined ? null : { key: body.concurrencyKey, limit: body.concurrencyLimit ?? 1 },
    queueTtlMs: body.queueTtlMs,
    idempotencyKey,
  };
}

function stdinOf(source: StdinSource | undefined): NewStdin {
  if (source === undefined) return null;
  if ('blob' in source) return { blob: source.blob };
  const inline = fromBase64(source.base64);
  if (inline.length <= MAX_INLINE_STDIN_BYTES) return { inline };
  throw new CocoreError(
    'input_too_large',
    `standard input of ${inline.length} bytes is too large for a request (${MAX_INLINE_STDIN_BYTES}); upload it as a blob`,
  );
}

/** Files in the request are bounded together, as standard input is. */
function checkedFiles(files: readonly InputFile[]): readonly InputFile[] {
  const bytes = files.reduce((sum, file) => sum + ('base64' in file ? Buffer.byteLength(file.base64, 'base64') : 0), 0);
  if (bytes <= MAX_INLINE_FILES_BYTES) return files;
  const message = `files of ${bytes} bytes are too large for a request (${MAX_INLINE_FILES_BYTES}); upload them as blobs`;
  throw new CocoreError('input_too_large', message);
}

/** An event is the function's standard input. */
function eventInput(event: unknown): NewStdin {
  const inline = Buffer.from(JSON.stringify(event));
  if (inline.length <= MAX_EVENT_BYTES) return { inline };
  const message = `an event of ${inline.length} bytes is too large (${MAX_EVENT_BYTES}); give it as standard input`;
  throw new CocoreError('input_too_large', message);
}
