/**
 * The closed table of error codes. Callers branch on `code`, never on the message. `docs/reference/errors.md` lists the
 * same codes; a test compares the two.
 */
interface ErrorRow {
  /** HTTP status; 0 for errors that never cross HTTP. */
  readonly status: number;
  /** Whether the same request may succeed later, unchanged. */
  readonly retryable: boolean;
  /** What the caller can do, one line. */
  readonly remedy: string;
}

export const ERRORS = {
  // The request
  invalid_json: { status: 400, retryable: false, remedy: 'Send one JSON document in valid UTF-8.' },
  invalid_request: { status: 400, retryable: false, remedy: 'Correct the fields that the message names.' },
  invalid_text: {
    status: 400,
    retryable: false,
    remedy: 'Send text in UTF-8 without NUL characters; send other bytes by standard input.',
  },
  input_too_large: { status: 413, retryable: false, remedy: 'Send less, or move data to standard input.' },
  payload_too_large: {
    status: 413,
    retryable: false,
    remedy: 'Send a smaller body; large input goes to POST /v1/blobs.',
  },
  unsupported_media_type: {
    status: 415,
    retryable: false,
    remedy: 'Send application/json, or application/octet-stream to POST /v1/blobs.',
  },
  route_not_found: { status: 404, retryable: false, remedy: 'See /openapi.json for the paths that exist.' },
  method_not_allowed: { status: 405, retryable: false, remedy: 'Use one of the methods in the Allow header.' },
  host_not_allowed: {
    status: 421,
    retryable: false,
    remedy: 'Use the address that the server was started with, or start it with --allow-host.',
  },
  // Who asks
  unauthenticated: {
    status: 401,
    retryable: false,
    remedy: 'Send a valid key as Authorization: Bearer; the command reads COCORE_API_KEY.',
  },
  forbidden: { status: 403, retryable: false, remedy: 'Use a key that has the role which the message names.' },
  // What is asked for
  function_not_found: {
    status: 404,
    retryable: false,
    remedy: 'List the functions of this project with cocore functions.',
  },
  execution_not_found: { status: 404, retryable: false, remedy: 'List the executions of this project with cocore ps.' },
  output_expired: {
    status: 410,
    retryable: false,
    remedy: 'Fetch output sooner, or ask the operator to keep more of it.',
  },
  batch_not_found: { status: 404, retryable: false, remedy: 'Take the id that the answer to POST /v1/batches has.' },
  artifacts_not_found: {
    status: 404,
    retryable: false,
    remedy: 'Wait for the end, and let the function write files to $COCORE_OUT.',
  },
  blob_not_found: { status: 404, retryable: false, remedy: 'Upload the bytes with POST /v1/blobs first.' },
  worker_not_found: { status: 404, retryable: false, remedy: 'List the workers with cocore workers.' },
  key_not_found: { status: 404, retryable: false, remedy: 'List the keys with GET /v1/keys.' },
  shape_not_offered: { status: 400, retryable: false, remedy: 'Take the shape that the message names.' },
  limit_exceeded: { status: 400, retryable: false, remedy: 'Ask for no more than the limit that the message names.' },
  quota_exceeded: {
    status: 429,
    retryable: true,
    remedy: 'Wait until earlier executions have ended, or ask the operator for more.',
  },
  idempotency_conflict: { status: 409, retryable: false, remedy: 'Use another idempotency key for another input.' },
  code_invalid: {
    status: 400,
    retryable: false,
    remedy: 'Deploy a regular, non-empty file, or a directory without what the message names.',
  },
  build_failed: {
    status: 422,
    retryable: false,
    remedy:
      'Read what the build printed, with `cocore logs` and the id that the message names; then mend the code or its lock file.',
  },
  // Images
  image_unknown: {
    status: 404,
    retryable: false,
    remedy: 'Check the image’s name and tag; for a private one log in with docker login, then deploy again.',
  },
  image_digest: {
    status: 422,
    retryable: false,
    remedy: 'Push the image again: its registry holds bytes that are not what the manifest names.',
  },
  image_too_large: {
    status: 413,
    retryable: false,
    remedy: 'Make the image smaller than the limit that the message names.',
  },
  image_refused: {
    status: 422,
    retryable: false,
    remedy: 'Change the image, or take another, so that what the message names is not there.',
  },
  image_timeout: {
    status: 504,
    retryable: true,
    remedy: 'Try again when registry and server have less to do, or make the image smaller.',
  },
  importer_unavailable: {
    status: 503,
    retryable: false,
    remedy: 'Give the control server’s host what the message names; docs/operations.md lists what images need.',
  },
  // The server
  not_ready: { status: 503, retryable: true, remedy: 'Try again in a moment.' },
  internal: { status: 500, retryable: true, remedy: 'Try again; if it stays, give the request id to the operator.' },
  // Workers
  join_token_invalid: {
    status: 401,
    retryable: false,
    remedy: 'Make a new join token; each works once and for a limited time.',
  },
  worker_unknown: {
    status: 401,
    retryable: true,
    remedy:
      'Give the worker a new join token, with --join-token-file: the control server has no record of its key, perhaps because it was restored from a backup.',
  },
  signature_invalid: {
    status: 401,
    retryable: false,
    remedy: 'Join again with a new token, or restore the worker’s own key.',
  },
  server_mismatch: {
    status: 0,
    retryable: false,
    remedy: 'This is not the server that the worker joined; check the address and the certificate.',
  },
  protocol_version: {
    status: 400,
    retryable: false,
    remedy: 'Bring daemon and control server to versions that overlap.',
  },
  protocol_violation: { status: 400, retryable: false, remedy: 'Report it: one of the two sides has a fault.' },
  worker_duplicate: {
    status: 409,
    retryable: true,
    remedy:
      'Stop the other daemon that has this worker’s key, or give this one a data directory of its own and a new join token.',
  },
  session_replaced: { status: 409, retryable: false, remedy: 'Run one daemon for each worker identity.' },
  // The command and the daemons
  project_invalid: { status: 0, retryable: false, remedy: 'Mend the line of cocore.json that the message names.' },
  recipe_invalid: { status: 0, retryable: false, remedy: 'Mend the recipe that the message names, or take it away.' },
  usage: { status: 0, retryable: false, remedy: 'See cocore --help.' },
  archive_refused: {
    status: 0,
    retryable: false,
    remedy: 'Do not use it: its sandbox did not send what a sandbox sends.',
  },
  file_exists: { status: 0, retryable: false, remedy: 'Give another directory, or --force to write over files.' },
  file_unreadable: { status: 0, retryable: false, remedy: 'Check the path and its permissions.' },
  runtime_unknown: { status: 400, retryable: false, remedy: 'Name one of the server’s runtimes with --runtime.' },
  key_missing: { status: 0, retryable: false, remedy: 'Set COCORE_API_KEY, or start cocore dev on this machine.' },
  server_unreachable: {
    status: 0,
    retryable: true,
    remedy: 'Check COCORE_URL and that the server runs; cocore dev starts one here.',
  },
  insecure_refused: {
    status: 0,
    retryable: false,
    remedy: 'Use https, or add --insecure if the network between is yours alone.',
  },
  address_in_use: { status: 0, retryable: false, remedy: 'Give another --port, or stop what listens there.' },
  data_dir_in_use: { status: 0, retryable: false, remedy: 'Stop the other process, or give another --data-dir.' },
  database_unavailable: {
    status: 0,
    retryable: true,
    remedy: 'Check COCORE_DATABASE_URL, that the database runs, and that it lets this user in.',
  },
  database_unfit: {
    status: 0,
    retryable: false,
    remedy: 'Make the database as docs/operations.md says, or use another.',
  },
  database_not_empty: {
    status: 0,
    retryable: false,
    remedy: 'Name a database that is empty: make another, or drop this one and make it again.',
  },
  artifact_missing: { status: 0, retryable: false, remedy: 'Run npm run setup in the checkout.' },
  host_unfit: { status: 0, retryable: false, remedy: 'See cocore doctor for what this host lacks.' },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERRORS, text);
}

/** The one error type that crosses a boundary of CoCore. */
export class CocoreError extends Error {
  readonly code: ErrorCode;
  /** Facts for programs; never a secret. */
  readonly details: Record<string, unknown>;

  constructor(code: ErrorCode, message: string, options: { details?: Record<string, unknown>; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CocoreError';
    this.code = code;
    this.details = options.details ?? {};
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }

  get remedy(): string {
    return ERRORS[this.code].remedy;
  }
}

/** Closes a `switch` over a union: adding a member without a case fails to compile. */
export function assertNever(value: never): never {
  throw new Error(`unexpected value: ${JSON.stringify(value)}`);
}
