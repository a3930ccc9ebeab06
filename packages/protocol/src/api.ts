import { z } from 'zod';
import { utf8Length } from './bytes.ts';
import { AttemptCause, RetryPolicy } from './delivery.ts';
import { ExecutionPhase, ExecutionState, Fault, Reason } from './execution.ts';
import {
  AttemptId,
  BatchId,
  ExecutionId,
  FunctionId,
  FunctionName,
  KeyId,
  ProjectId,
  Sha256,
  WorkerId,
} from './ids.ts';
import { IsolationClass } from './isolation.ts';
import { EgressUsage, Network, NetworkInput, NO_NETWORK } from './network.ts';
import { FunctionError, isDeeperThan, StreamEnd } from './leavings.ts';
import * as limits from './limits.ts';
import { AttemptOutcome, Outcome } from './outcome.ts';
import type { Problem } from './problem.ts';

/**
 * The user's conversation: HTTP and JSON under `/v1`. Requests are strict (an unknown field is an error); answers may
 * gain fields, so clients ignore what they do not know. Times are ISO 8601 in UTC, by the store's clock.
 */

const Timestamp = z.iso.datetime();
const Count = z.int().min(0);

/** Text that a process can be given: UTF-8, no NUL, no lone surrogates. */
const isProcessText = (text: string) => !text.includes('\0') && text.isWellFormed();
const ProcessText = z
  .string()
  .refine(isProcessText, { message: 'must be well-formed Unicode without NUL', params: { code: 'invalid_text' } })
  .refine((text) => utf8Length(text) <= limits.MAX_ARGUMENT_BYTES, {
    message: `must be at most ${limits.MAX_ARGUMENT_BYTES} bytes in UTF-8`,
    params: { code: 'input_too_large' },
  });

const Variables = z
  .record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'must be a name of letters, digits and underscores'),
    ProcessText,
  )
  .refine(
    (env) =>
      Object.entries(env).every(([name, value]) => name.length + 1 + utf8Length(value) <= limits.MAX_ARGUMENT_BYTES),
    {
      message: `must have names and values of at most ${limits.MAX_ARGUMENT_BYTES} bytes together in UTF-8`,
      params: { code: 'input_too_large' },
    },
  );

/** What is in an object or array is counted before each is looked at: a million of them cost ten seconds and a gigabyte. */
const counted = <Schema extends z.ZodType>(schema: Schema, max: number, what: string) =>
  z.preprocess((value, context) => {
    const count = typeof value === 'object' && value !== null ? Object.keys(value).length : 0;
    if (count <= max) return value;
    context.addIssue({ code: 'custom', message: `must have at most ${max} ${what}` });
    return z.NEVER;
  }, schema) as unknown as z.ZodType<z.output<Schema>, z.input<Schema>>;

/** Variables by name. */
export const Environment = counted(Variables, limits.MAX_ENVIRONMENT, 'names');

/** A recipe of the server: what source code is run with. */
export const RuntimeName = z
  .string()
  .regex(/^[a-z][a-z0-9-]{0,31}$/, 'must be 1 to 32 lower case letters, digits and hyphens, beginning with a letter');
export type RuntimeName = z.infer<typeof RuntimeName>;

export const StreamName = z.enum(['stdout', 'stderr']);
export type StreamName = z.infer<typeof StreamName>;

/** A shape's number is checked against its closed list by the server, which names the next one. */
const MemoryMiB = z.int().min(1);
const Cpus = z.int().min(1);
const RunTimeoutMs = z.int().min(limits.MIN_RUN_TIMEOUT_MS).max(limits.MAX_RUN_TIMEOUT_MS);
const OutputLimitBytes = z.int().min(1).max(limits.MAX_OUTPUT_LIMIT_BYTES);
/** How many may have a worker at once. */
export const Concurrency = z.int().min(1).max(limits.MAX_CONCURRENT);

// --- Functions

/** One part of a path. */
export const FileName = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/, 'must be a plain file name of letters, digits, ., _ and -');

/** One file of code, carried in the request. */
const CodeFile = z.strictObject({
  /** The last part of the path; the code is found under this name in the sandbox. */
  name: FileName,
  contentBase64: z.base64(),
});

/** A path below the directory that was deployed. */
export const CodePath = z
  .string()
  .min(1)
  .max(1024)
  .refine(
    (path) => isProcessText(path) && path.split('/').every((part) => part !== '' && part !== '.' && part !== '..'),
    'must be a relative path without empty parts, . and ..',
  );

/** A directory of code: a tar archive, uploaded before. */
const CodeArchive = z.strictObject({
  blob: Sha256,
  /** The file in it that is run. */
  entry: CodePath,
});

export const HandlerName = z.string().regex(/^[A-Za-z_$][A-Za-z0-9_$]{0,127}$/, 'must be the name of a function');

/** What a registry is shown for one image; kept no longer than the import takes. */
export const RegistryAuth = z.union([
  z.strictObject({ username: z.string().min(1).max(1024), password: z.string().max(16_384) }),
  z.strictObject({ identityToken: z.string().min(1).max(16_384) }),
]);
export type RegistryAuth = z.infer<typeof RegistryAuth>;

/** A container image, imported by the server. */
const ImageSource = z.strictObject({
  /** As `docker pull` takes it: `python:3.12`, `ghcr.io/owner/name@sha256:…`. */
  reference: z.string().min(1).max(512),
  auth: RegistryAuth.optional(),
  /** Instead of the image's own arguments; its entry point stays. */
  command: z.array(ProcessText).max(limits.MAX_ARGUMENTS).optional(),
});

const FunctionDeployFields = z.strictObject({
  name: FunctionName,
  /** Exactly one of the three. */
  file: CodeFile.optional(),
  archive: CodeArchive.optional(),
  image: ImageSource.optional(),
  /** What runs a file or an archive. */
  runtime: RuntimeName.optional(),
  /** The name that the code gives its handler; without it the code is a program. */
  handler: HandlerName.optional(),
  memoryMiB: MemoryMiB.default(limits.DEFAULT_MEMORY_MIB),
  cpus: Cpus.default(limits.DEFAULT_CPUS),
  /** From `startedAt`. */
  timeoutMs: RunTimeoutMs.default(limits.DEFAULT_RUN_TIMEOUT_MS),
  /** Both streams together; what is beyond is cut and marked. */
  outputLimitBytes: OutputLimitBytes.default(limits.DEFAULT_OUTPUT_LIMIT_BYTES),
  env: Environment.default({}),
  /** The weakest class that it may run in; the default is the server's. */
  isolation: IsolationClass.optional(),
  /** What is done again when an execution ends otherwise than by success; nothing if not given. */
  retries: RetryPolicy.optional(),
  /**
   * How many executions of the function may have a worker at once, of all its versions; any number if not given. It holds from the deployment on, and what
   * has a worker then keeps it.
   */
  maxConcurrent: Concurrency.optional(),
  /** What it may reach. */
  network: NetworkInput.default({ mode: 'none' }),
  /** Running it twice does no harm: an execution that is lost with its host runs again although it had a network. */
  idempotent: z.boolean().default(false),
});

/**
 * `POST /v1/functions`: makes the function, or the next version of the one with this name. Asked for as server-sent events, the answer says how
 * far it is (`DeployEvent`).
 */
export const FunctionDeploy = FunctionDeployFields.superRefine((deploy, context) => {
  const given = (['file', 'archive', 'image'] as const).filter((name) => deploy[name] !== undefined);
  const fault = (path: string, message: string) => context.addIssue({ code: 'custom', path: [path], message });
  if (given.length !== 1) fault(given[1] ?? 'file', 'must be exactly one of file, archive and image');
  if (deploy.image !== undefined && deploy.runtime !== undefined) fault('runtime', 'an image has its own');
  if (deploy.image !== undefined && deploy.handler !== undefined) fault('handler', 'an image is run as a program');
  if (deploy.image === undefined && deploy.runtime === undefined) fault('runtime', 'must say what runs the code');
});
export type FunctionDeploy = z.infer<typeof FunctionDeploy>;
export type FunctionDeployInput = z.input<typeof FunctionDeploy>;

/** Where a version's code came from. */
export const FunctionSource = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('file'), name: z.string() }),
  z.object({ kind: z.literal('archive'), entry: z.string() }),
  z.object({
    kind: z.literal('image'),
    /** As it was asked for. */
    reference: z.string(),
    /** Of the manifest for the workers' platform: what runs, whatever the tag names later. */
    digest: Sha256,
  }),
]);
export type FunctionSource = z.infer<typeof FunctionSource>;

export const FunctionRecord = z.object({
  id: FunctionId,
  name: FunctionName,
  /** Counts from 1; the newest is what runs. */
  version: z.int().min(1),
  /** The recipe; null for an image. */
  runtime: RuntimeName.nullable(),
  source: FunctionSource,
  handler: z.string().nullable(),
  codeDigest: Sha256,
  /** The root file system. */
  imageDigest: Sha256,
  memoryMiB: z.int(),
  cpus: z.int(),
  timeoutMs: z.int(),
  outputLimitBytes: z.int(),
  /** The weakest class that this version runs in. */
  isolation: IsolationClass,
  retries: RetryPolicy.nullable().default(null),
  /** Null for any number. */
  maxConcurrent: z.int().nullable().default(null),
  network: Network.default(NO_NETWORK),
  idempotent: z.boolean().default(false),
  createdAt: Timestamp,
  deployedAt: Timestamp,
});
export type FunctionRecord = z.infer<typeof FunctionRecord>;

/** How far a deployment is, as server-sent events: any number of the first two, then one of the others. */
export const DeployProgress = z.object({
  /** What is being done. */
  step: z.enum(['waiting', 'resolving', 'pulling', 'unpacking', 'packing', 'building']),
  /** Bytes and layers that are done, and how many there are, where that is known. */
  bytes: Count.optional(),
  totalBytes: Count.optional(),
  layers: Count.optional(),
  totalLayers: Count.optional(),
  /** Why no worker has taken the build, in words. */
  waiting: z.string().optional(),
});
export type DeployProgress = z.infer<typeof DeployProgress>;

/** What the installation of dependencies prints. */
export const BuildOutput = z.object({ stream: StreamName, base64: z.string() });
export type BuildOutput = z.infer<typeof BuildOutput>;

export type DeployEvent =
  | { event: 'progress'; data: DeployProgress }
  | { event: 'output'; data: BuildOutput }
  | { event: 'deployed'; data: FunctionRecord }
  /** What the answer would have been without events. */
  | { event: 'failed'; data: Problem };

// --- Executions

/** Standard input: bytes in the request, or a blob uploaded before. */
export const StdinSource = z.union([z.strictObject({ base64: z.base64() }), z.strictObject({ blob: Sha256 })]);
export type StdinSource = z.infer<typeof StdinSource>;

/** A file that the function finds in its working directory: bytes in the request, or a blob uploaded before. */
export const InputFile = z.union([
  z.strictObject({ name: FileName, base64: z.base64() }),
  z.strictObject({ name: FileName, blob: Sha256 }),
]);
export type InputFile = z.infer<typeof InputFile>;

const IdempotencyKey = z.string().min(1).max(limits.MAX_IDEMPOTENCY_KEY_BYTES).refine(isProcessText);

const ExecutionInput = z.strictObject({
  args: z.array(ProcessText).max(limits.MAX_ARGUMENTS).default([]),
  env: Environment.default({}),
  stdin: StdinSource.optional(),
  /** Any JSON value: given to the function as its standard input, as JSON text. Instead of `stdin`. */
  event: z.unknown().optional(),
  /** Put into the working directory before the start; each has a name of its own. */
  files: z.array(InputFile).max(limits.MAX_FILES).default([]),
  timeoutMs: RunTimeoutMs.optional(),
  outputLimitBytes: OutputLimitBytes.optional(),
  /** Instead of its function's; null for none. */
  retries: RetryPolicy.nullable().optional(),
  /** Of those of its project that wait, the higher goes first, and of one priority the earlier. Projects take turns whatever theirs are. */
  priority: z.int().min(limits.MIN_PRIORITY).max(limits.MAX_PRIORITY).default(0),
  /** It starts only while fewer executions of its project with the same key than `concurrencyLimit` have a worker, whatever their functions. */
  concurrencyKey: z
    .string()
    .min(1)
    .refine(isProcessText, 'must be well-formed Unicode without NUL')
    .refine(
      (key) => utf8Length(key) <= limits.MAX_CONCURRENCY_KEY_BYTES,
      `must be at most ${limits.MAX_CONCURRENCY_KEY_BYTES} bytes in UTF-8`,
    )
    .optional(),
  /** With a key; 1 if not given. */
  concurrencyLimit: Concurrency.optional(),
  /** How long it may wait for a worker: after that it ends as `timeout`, reason `queue_ttl`. Each retry has as long. */
  queueTtlMs: z.int().min(limits.MIN_QUEUE_TTL_MS).max(limits.MAX_QUEUE_TTL_MS).default(limits.QUEUE_TTL_MS),
});

function checkInput(input: z.output<typeof ExecutionInput>, context: z.RefinementCtx): void {
  const { stdin, event, files } = input;
  if (input.concurrencyLimit !== undefined && input.concurrencyKey === undefined) {
    context.addIssue({ code: 'custom', path: ['concurrencyLimit'], message: 'must come with concurrencyKey' });
  }
  if (new Set(files.map(({ name }) => name)).size < files.length) {
    context.addIssue({ code: 'custom', path: ['files'], message: 'must have different names' });
  }
  const fault = (message: string) => context.addIssue({ code: 'custom', path: ['event'], message });
  if (stdin !== undefined && event !== undefined) fault('must not be given together with stdin');
  if (isDeeperThan(event, limits.MAX_JSON_DEPTH)) fault(`must have at most ${limits.MAX_JSON_DEPTH} levels`);
}

/** `POST /v1/functions/{id or name}/executions`. */
export const ExecutionCreate = ExecutionInput.extend({
  /** The same key with the same input gives the same execution; with another input it is refused. */
  idempotencyKey: IdempotencyKey.optional(),
}).superRefine(checkInput);
export type ExecutionCreate = z.infer<typeof ExecutionCreate>;
export type ExecutionCreateInput = z.input<typeof ExecutionCreate>;

/** One execution of a batch. */
export const BatchEntry = ExecutionInput.extend({
  /** Id or name. */
  function: z.string().min(1).max(128),
}).superRefine(checkInput);
export type BatchEntry = z.infer<typeof BatchEntry>;
export type BatchEntryInput = z.input<typeof BatchEntry>;

/** `POST /v1/batches`: all of the executions or none. */
export const BatchCreate = z.strictObject({
  executions: counted(z.array(BatchEntry).min(1), limits.MAX_BATCH_EXECUTIONS, 'executions'),
  /** As an execution's; a batch's keys are apart from those of executions. */
  idempotencyKey: IdempotencyKey.optional(),
});
export type BatchCreate = z.infer<typeof BatchCreate>;

export const StreamSummary = z.object({
  /** Committed so far; final once the execution has ended. */
  bytes: Count,
  /** The function wrote more than its output limit. */
  truncated: z.boolean(),
  /** Of the bytes kept; null until the end. */
  sha256: Sha256.nullable(),
});
export type StreamSummary = z.infer<typeof StreamSummary>;

/** What an execution left in `$COCORE_OUT`; the archive is at `/artifacts`. */
export const ArtifactsSummary = z.object({
  /** Of the archive. */
  bytes: Count,
  sha256: Sha256,
  /** Regular files in it, as its sandbox counted them. */
  files: Count,
});
export type ArtifactsSummary = z.infer<typeof ArtifactsSummary>;

export const OutputSummary = z.object({ stdout: StreamSummary, stderr: StreamSummary });
export type OutputSummary = z.infer<typeof OutputSummary>;

/** One meter's reading. Null is "not measured". */
export const MeterReading = z.strictObject({
  cpuMs: z.number().min(0).nullable(),
  memoryPeakBytes: Count.nullable(),
  /** From the sandbox's (or the process's) start to its end. */
  wallMs: z.number().min(0).nullable(),
});
export type MeterReading = z.infer<typeof MeterReading>;

export const UsageRecord = z.object({
  /** The host's control group around the whole sandbox. */
  host: MeterReading.nullable(),
  /** The guest's own account, which a hostile guest can forge. */
  guest: MeterReading.nullable(),
  /** The control server's clock: acceptance to end. */
  control: MeterReading.nullable(),
  /** The host's count of what the function sent and received; null where it had no network. */
  egress: EgressUsage.nullable().default(null),
});
export type UsageRecord = z.infer<typeof UsageRecord>;

export const AttemptState = z.enum(['queued', 'assigned', 'accepted', 'started', 'ended']);
export type AttemptState = z.infer<typeof AttemptState>;

/**
 * What the worker reported of an attempt that the control server had ended without it: evidence, which changes nothing. With the attempt's id it
 * is all that its signature is about, but for the message.
 */
export const LateEnd = z.object({
  receivedAt: Timestamp,
  outcome: Outcome,
  message: z.string().nullable(),
  stdout: StreamEnd,
  stderr: StreamEnd,
  result: StreamEnd,
  artifacts: StreamEnd,
  artifactFiles: Count,
  usage: z.object({
    host: MeterReading.nullable(),
    guest: MeterReading.nullable(),
    egress: EgressUsage.optional(),
  }),
  signature: z.string(),
});
export type LateEnd = z.infer<typeof LateEnd>;

export const AttemptRecord = z.object({
  id: AttemptId,
  number: z.int().min(1),
  kind: z.enum(['primary']),
  cause: AttemptCause.default('first'),
  state: AttemptState,
  workerId: WorkerId.nullable(),
  driver: z.string().nullable(),
  isolation: IsolationClass.nullable(),
  createdAt: Timestamp,
  /** When the wait before a retry is over. */
  notBefore: Timestamp.nullable().default(null),
  assignedAt: Timestamp.nullable(),
  acceptedAt: Timestamp.nullable(),
  startedAt: Timestamp.nullable(),
  endedAt: Timestamp.nullable(),
  outcome: AttemptOutcome.nullable(),
  lateEnd: LateEnd.nullable().default(null),
  /** When the worker last named this attempt in a heartbeat. */
  lastBeatAt: Timestamp.nullable(),
  /** At that beat: how long ago the agent had last answered. Null before the agent's first word. */
  agentAgeMs: Count.nullable(),
  usage: UsageRecord,
});
export type AttemptRecord = z.infer<typeof AttemptRecord>;

/** Why an execution has not started: nothing has taken it, or its worker makes ready. */
export const Waiting = z.object({
  /**
   * `no_worker`: none is online. `isolation`: none that is online gives the class that is required. `network`: those that give it
   * let no function have a network. `too_large`: those that give it are too
   * small, were they empty. `busy`: those that could run it have no room now, or take nothing. `cap`: as many as its function or its concurrency
   * key allows have a worker. `backoff`: the wait before a retry. `fetching`: its worker has it, and fetches what it needs.
   */
  code: z.enum(['no_worker', 'isolation', 'network', 'too_large', 'busy', 'cap', 'backoff', 'fetching']),
  /** One line for people: what is needed, and what is there. */
  message: z.string(),
  /** Among the executions of its project that wait for a worker, by priority and then by age, from 1; null when it is not among them. */
  position: z.int().min(1).nullable().default(null),
});
export type Waiting = z.infer<typeof Waiting>;

export const ExecutionRecord = z.object({
  id: ExecutionId,
  functionId: FunctionId,
  /** Of a build: the name of the function that it is for, and `:build`. */
  functionName: z.string(),
  version: z.int().min(1),
  state: ExecutionState,
  phase: ExecutionPhase.nullable(),
  reason: Reason.nullable(),
  fault: Fault,
  /** One line for people, where there is more to say than the reason. */
  message: z.string().nullable(),
  exitCode: z.int().nullable(),
  signal: z.int().nullable(),
  args: z.array(z.string()),
  memoryMiB: z.int(),
  cpus: z.int(),
  timeoutMs: z.int(),
  outputLimitBytes: z.int(),
  /** What its function's version requires; what an attempt was given is in the attempt. */
  isolation: IsolationClass,
  retries: RetryPolicy.nullable().default(null),
  priority: z.int().default(0),
  concurrencyKey: z.string().nullable().default(null),
  concurrencyLimit: z.int().nullable().default(null),
  queueTtlMs: z.int().default(limits.QUEUE_TTL_MS),
  /** Null unless it waits in the queue and nothing can take it now, or its worker fetches what it needs. */
  waiting: Waiting.nullable(),
  inputDigest: Sha256,
  /** The batch that it came with, and its place in the request, from 0. */
  batchId: BatchId.nullable().default(null),
  batchIndex: Count.nullable().default(null),
  createdAt: Timestamp,
  acceptedAt: Timestamp.nullable(),
  startedAt: Timestamp.nullable(),
  endedAt: Timestamp.nullable(),
  /** When the control server ends it if nobody else has (before its grace). */
  deadlineAt: Timestamp.nullable(),
  cancelRequestedAt: Timestamp.nullable(),
  output: OutputSummary,
  /** What its function wrote to `$COCORE_RESULT`, or its handler returned; null when it is nothing, or before the end. */
  result: z.object({ value: z.unknown() }).nullable(),
  /** Its handler's exception, with the reason `exception`. */
  error: FunctionError.nullable(),
  artifacts: ArtifactsSummary.nullable(),
  /**
   * It ended longer ago, or with more output after it, than is kept: arguments, result, message, output and attempts are gone, and empty here. What it
   * came to, and when, stays.
   */
  expired: z.boolean().default(false),
  decidingAttempt: AttemptId.nullable(),
  attempts: z.array(AttemptRecord),
});
export type ExecutionRecord = z.infer<typeof ExecutionRecord>;

/** A stream's bytes inside JSON: text when they are valid UTF-8. */
export const InlineBytes = z.object({
  encoding: z.enum(['utf8', 'base64']),
  data: z.string(),
  /** False when the stream is longer than an answer carries; the whole is at `/output/{stream}`. */
  complete: z.boolean(),
});
export type InlineBytes = z.infer<typeof InlineBytes>;

/** The record; where `?wait=` was asked for and it has ended, its output too. */
export const ExecutionAnswer = ExecutionRecord.extend({
  stdout: InlineBytes.nullable().default(null),
  stderr: InlineBytes.nullable().default(null),
});
export type ExecutionAnswer = z.infer<typeof ExecutionAnswer>;

export const BatchRecord = z.object({
  id: BatchId,
  createdAt: Timestamp,
  /** When the last of its executions ended; null before. */
  endedAt: Timestamp.nullable(),
  /** How many of its executions are in each state. */
  counts: z.object({
    open: Count,
    running: Count,
    success: Count,
    failure: Count,
    timeout: Count,
    cancelled: Count,
  } satisfies Record<ExecutionState, typeof Count>),
  /** In the order of the request. */
  executionIds: z.array(ExecutionId),
});
export type BatchRecord = z.infer<typeof BatchRecord>;

export const CancelAnswer = z.object({
  /** `cancelled`: it was open, and has ended. `requested`: its worker is being told. The others change nothing. */
  result: z.enum(['cancelled', 'requested', 'already_requested', 'already_ended']),
  execution: ExecutionRecord,
});
export type CancelAnswer = z.infer<typeof CancelAnswer>;

/** `POST /v1/executions/cancel`: executions that have not ended, were there when it was asked, and meet every criterion that is given. */
export const CancelMany = z
  .strictObject({
    function: z.union([FunctionId, FunctionName]).optional(),
    batch: BatchId.optional(),
    state: z.enum(['open', 'running']).optional(),
    createdBefore: Timestamp.optional(),
    /** The criterion that all of the project's meet. */
    all: z.literal(true).optional(),
    /** Only counts them. */
    dryRun: z.boolean().default(false),
  })
  .refine(({ dryRun: _, ...criteria }) => Object.values(criteria).some((one) => one !== undefined), {
    message: 'must have a criterion: function, batch, state, createdBefore, or all',
  });
export type CancelMany = z.infer<typeof CancelMany>;
export type CancelManyInput = z.input<typeof CancelMany>;

/** The three that follow are parts of `matched`, as a single cancellation would say; 0 where they were only counted. */
export const CancelManyAnswer = z.object({
  matched: Count,
  cancelled: Count,
  requested: Count,
  alreadyRequested: Count,
});
export type CancelManyAnswer = z.infer<typeof CancelManyAnswer>;

const Wait = z
  .string()
  .regex(/^\d{1,6}(?:ms|s)$/, 'must be a duration such as 30s or 500ms')
  .transform((text) => (text.endsWith('ms') ? Number(text.slice(0, -2)) : Number(text.slice(0, -1)) * 1000))
  .refine((ms) => ms <= limits.MAX_WAIT_MS, `must be at most ${limits.MAX_WAIT_MS / 1000}s`);

/** `GET /v1/executions/{id}?wait=30s`, `POST …/executions?wait=30s`, `GET /v1/batches/{id}?wait=30s`: milliseconds after parsing. */
export const WaitQuery = z.strictObject({ wait: Wait.optional() });

/** A number in a query: digits, and neither `0x10` nor nothing. */
const Digits = z
  .string()
  .regex(/^\d{1,15}$/, 'must be a whole number')
  .transform(Number);
const PageLimit = Digits.pipe(z.int().min(1).max(200));

export const ExecutionListQuery = z.strictObject({
  state: ExecutionState.optional(),
  function: z.union([FunctionId, FunctionName]).optional(),
  batch: BatchId.optional(),
  limit: PageLimit.default(50),
  /** The `next` of the page before. */
  cursor: ExecutionId.optional(),
});
export type ExecutionListQuery = z.infer<typeof ExecutionListQuery>;

export const ExecutionList = z.object({ executions: z.array(ExecutionRecord), next: ExecutionId.nullable() });
export type ExecutionList = z.infer<typeof ExecutionList>;

/** `GET /v1/executions/{id}/output/{stream}`: raw bytes from an offset. */
export const OutputQuery = z.strictObject({ offset: Digits.default(0) });

export const FunctionList = z.object({ functions: z.array(FunctionRecord) });
export type FunctionList = z.infer<typeof FunctionList>;

// --- Following: `GET /v1/executions/{id}/events`, server-sent events, or frames (`event-frames.ts`)

/** Event `output`: bytes of one stream, gapless and in order within the stream. */
export const OutputEvent = z.object({
  attemptId: AttemptId,
  stream: StreamName,
  offset: Count,
  base64: z.string(),
});
export type OutputEvent = z.infer<typeof OutputEvent>;

/** What a frame's head says of its payload, which is the bytes. */
export const OutputHead = OutputEvent.omit({ base64: true });
export type OutputHead = z.infer<typeof OutputHead>;

/** Event `restart`. */
export const RestartEvent = z.object({ attemptId: AttemptId });
export type RestartEvent = z.infer<typeof RestartEvent>;

/**
 * What a follower is sent: `execution` at once and at each change, `output` as it is committed, and `end` with the
 * final record, after all output. `restart` says that what follows is the output of another attempt, from its beginning: what was sent of the
 * earlier one is not its prefix. Each event's `id` is a cursor for `Last-Event-ID`.
 */
export type FollowEvent =
  | { event: 'execution'; id: string; data: ExecutionRecord }
  | { event: 'output'; id: string; data: OutputEvent }
  | { event: 'restart'; id: string; data: RestartEvent }
  | { event: 'end'; id: string; data: ExecutionRecord };

// --- Blobs

/** The answer to `POST /v1/blobs` (`application/octet-stream`). */
export const BlobRecord = z.object({ digest: Sha256, bytes: Count });
export type BlobRecord = z.infer<typeof BlobRecord>;

// --- Workers

export const WorkerState = z.enum(['online', 'offline']);

/** A worker that is given nothing more. */
export const WorkerDrain = z.object({
  /** Who wants it so: the operator, here; or its owner, on the host. */
  by: z.enum(['operator', 'owner']),
  /** `draining`: it finishes what it has. `drained`: it has nothing. `reclaiming`: what it has is stopped, and run again elsewhere. */
  state: z.enum(['draining', 'drained', 'reclaiming']),
  since: Timestamp,
});
export type WorkerDrain = z.infer<typeof WorkerDrain>;

/** A worker that gets nothing, or one attempt at a time: what it was given failed there before it began. */
export const WorkerBackoff = z.object({
  /** It gets nothing before; null once it is tried again. */
  until: Timestamp.nullable(),
  /** Held against it since something last ran there, of functions that run on other workers. */
  failures: Count,
});
export type WorkerBackoff = z.infer<typeof WorkerBackoff>;

export const WorkerRecord = z.object({
  id: WorkerId,
  name: z.string(),
  state: WorkerState,
  driver: z.string(),
  isolation: IsolationClass,
  cpus: z.number(),
  memoryMiB: z.int(),
  diskMiB: z.int(),
  /** Functions may have a network there. */
  egress: z.boolean().default(false),
  usedCpus: z.number(),
  usedMemoryMiB: z.int(),
  attempts: Count,
  /** Null where it takes work. */
  drain: WorkerDrain.nullable().default(null),
  /** How many attempts it may have at once while trust is earned; null for as many as it has room for. */
  allowance: z.int().min(1).nullable().default(null),
  /** Null where it is trusted with what it has room for. */
  backoff: WorkerBackoff.nullable().default(null),
  daemonVersion: z.string(),
  platform: z.string(),
  joinedAt: Timestamp,
  connectedAt: Timestamp.nullable(),
  lastBeatAt: Timestamp.nullable(),
});
export type WorkerRecord = z.infer<typeof WorkerRecord>;

export const WorkerList = z.object({ workers: z.array(WorkerRecord) });
export type WorkerList = z.infer<typeof WorkerList>;

/** `POST /v1/join-tokens`, for operators. The token is shown once. */
export const JoinTokenCreate = z.strictObject({
  ttlMs: z
    .int()
    .min(1_000)
    .max(7 * 24 * 3_600_000)
    .default(3_600_000),
});
export const JoinTokenRecord = z.object({ token: z.string(), expiresAt: Timestamp });
export type JoinTokenRecord = z.infer<typeof JoinTokenRecord>;

/**
 * What a join token carries, as base64url of JSON after the prefix `cj_`: which server it is for, and how to know it.
 */
export const JoinTokenContent = z.strictObject({
  serverId: z.string(),
  /** SHA-256 of the server's certificate in DER, when it made its own; hexadecimal. */
  certificateSha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .nullable(),
  secret: z.string(),
});
export type JoinTokenContent = z.infer<typeof JoinTokenContent>;

// --- Keys

/** An `operator` may also make keys and join tokens, and sees every worker; both roles act within one project. */
export const KeyRole = z.enum(['operator', 'developer']);
export type KeyRole = z.infer<typeof KeyRole>;

/** `POST /v1/keys`, for operators. A project of this name is made when there is none. */
export const KeyCreate = z.strictObject({
  project: z
    .string()
    .regex(/^[a-z][a-z0-9-]{0,62}$/, 'must be 1 to 63 lower case letters, digits and hyphens, beginning with a letter')
    .optional(),
  role: KeyRole.default('developer'),
});

export const KeyRecord = z.object({
  id: KeyId,
  projectId: ProjectId,
  role: KeyRole,
  createdAt: Timestamp,
});
export type KeyRecord = z.infer<typeof KeyRecord>;

/** The secret is shown once; the server keeps only its hash. */
export const KeyCreated = KeyRecord.extend({ secret: z.string() });
export type KeyCreated = z.infer<typeof KeyCreated>;

export const KeyList = z.object({ keys: z.array(KeyRecord) });

/** `GET /v1/server`: who answers, and for which project. */
export const ServerRecord = z.object({
  serverId: z.string(),
  version: z.string(),
  projectId: ProjectId,
  role: KeyRole,
  workersOnline: Count,
});
export type ServerRecord = z.infer<typeof ServerRecord>;
