/**
 * The numbers of the contract. Each is promised in `docs/specification.md`, where the test that holds it is named.
 */

const KiB = 1024;
const MiB = 1024 * KiB;

/** Shapes come from closed lists, so that what is prepared for one shape serves every function of that shape. */
export const MEMORY_SHAPES_MIB = [128, 256, 512, 1024, 2048, 4096, 8192, 16384] as const;
export const CPU_SHAPES = [1, 2, 4, 8] as const;

export const DEFAULT_MEMORY_MIB = 256;
export const DEFAULT_CPUS = 1;

/** One argument, or one `NAME=value` of the environment, in UTF-8 bytes. Linux allows 128 KiB with the final NUL. */
export const MAX_ARGUMENT_BYTES = 128 * KiB - 1;
/** Arguments and environment together, in UTF-8 bytes. */
export const MAX_INPUT_BYTES = 1 * MiB;
export const MAX_ARGUMENTS = 4096;
export const MAX_ENVIRONMENT = 512;
/** Standard input carried inside the request; more is a blob. */
export const MAX_INLINE_STDIN_BYTES = 256 * KiB;
/** Input files of one execution, those carried inside the request, and all together. */
export const MAX_FILES = 16;
export const MAX_INLINE_FILES_BYTES = 256 * KiB;
export const MAX_FILES_BYTES = 64 * MiB;
export const MAX_BLOB_BYTES = 64 * MiB;
export const MAX_CODE_BYTES = 4 * MiB;
/** A directory of code, unpacked. */
export const MAX_ARCHIVE_BYTES = 64 * MiB;
/** Files, directories and links of a directory of code. */
export const MAX_ARCHIVE_ENTRIES = 10_000;
/** How deep directories of code may lie in one another. */
export const MAX_ARCHIVE_DEPTH = 32;
/** What a build makes, unpacked: twice as much has room on the disk of its sandbox. */
export const MAX_LAYER_BYTES = 192 * MiB;
/** Files, directories and links of what a build makes. */
export const MAX_LAYER_ENTRIES = 50_000;
/** From the start of a build's process. */
export const BUILD_TIMEOUT_MS = 15 * 60_000;
/** A build has the memory of its function, and this at least. */
export const BUILD_MEMORY_MIB = 512;
/** Output given inside an answer (`?wait=`), for each stream. */
export const MAX_INLINE_OUTPUT_BYTES = 256 * KiB;
export const MAX_IDEMPOTENCY_KEY_BYTES = 255;
/** How long an execution is kept whole after its end, and how much output of one project, unless the operator says otherwise. */
export const DEFAULT_RETENTION_MS = 30 * 24 * 60 * 60_000;
export const DEFAULT_RETAINED_OUTPUT_BYTES = 10 * 1024 * MiB;
/** How long an idempotency key holds, unless the operator says otherwise. */
export const DEFAULT_IDEMPOTENCY_TTL_MS = 24 * 60 * 60_000;
export const MAX_BATCH_EXECUTIONS = 1000;
/** The request of a batch. */
export const MAX_BATCH_BYTES = 16 * MiB;

/** Both streams together. Beyond it output is cut and marked; the execution goes on. */
export const DEFAULT_OUTPUT_LIMIT_BYTES = 10 * MiB;
export const MAX_OUTPUT_LIMIT_BYTES = 1024 * MiB;

/** What a function writes to `$COCORE_RESULT`. */
export const MAX_RESULT_BYTES = 256 * KiB;
/** Levels of arrays and objects in a result or an event. */
export const MAX_JSON_DEPTH = 256;
/** An execution's `event`, as JSON text. */
export const MAX_EVENT_BYTES = 256 * KiB;
/** What a function leaves in `$COCORE_OUT`, as an archive. */
export const ARTIFACTS_LIMIT_BYTES = 64 * MiB;
/** The most that a task may allow. */
export const MAX_ARTIFACTS_LIMIT_BYTES = 256 * MiB;
/** Files and directories in it. */
export const MAX_ARTIFACT_ENTRIES = 1000;

export const DEFAULT_RUN_TIMEOUT_MS = 60_000;
export const MIN_RUN_TIMEOUT_MS = 100;
export const MAX_RUN_TIMEOUT_MS = 24 * 60 * 60_000;

/** A worker tells which blobs from this size on it has: placement goes by them. */
export const LARGE_BLOB_BYTES = 1 * MiB;
/** The most that it tells. */
export const MAX_TOLD_BLOBS = 1000;

/** From the worker's acceptance to the start of the function's process. */
export const PREPARE_TIMEOUT_MS = 120_000;
/** How long an execution may wait for a worker, unless it says otherwise, and what it may say. */
export const QUEUE_TTL_MS = 24 * 60 * 60_000;
export const MIN_QUEUE_TTL_MS = 1_000;
export const MAX_QUEUE_TTL_MS = 7 * 24 * 60 * 60_000;
/** Of executions within their project: the higher goes first, and 0 if nothing is said. */
export const MIN_PRIORITY = -10;
export const MAX_PRIORITY = 10;
/** How many executions of a function, or of a concurrency key, may have a worker at once, where that is limited. */
export const MAX_CONCURRENT = 10_000;
export const MAX_CONCURRENCY_KEY_BYTES = 255;
/** What the control server adds to a deadline before it ends an execution that its worker did not end. */
export const CONTROL_GRACE_MS = 10_000;

/** From the signal that asks a function to stop to the end of its sandbox. */
export const DEFAULT_STOP_GRACE_MS = 10_000;
/** Less than the control server waits for a cancellation to be carried out. */
export const MAX_STOP_GRACE_MS = 20_000;

export const HEARTBEAT_MS = 5_000;
export const LEASE_MS = 30_000;
/** A daemon that the control server may not have heard for this long ends what could be seen beside its successor: attempts with a network. */
export const CUT_OFF_MS = 20_000;
/** Entries of the list of what a function may reach. */
export const MAX_EGRESS_TARGETS = 64;
/** What one execution may send and receive, together. */
export const DEFAULT_EGRESS_BYTES = 1024 * MiB;
/** What one build may, of what its registries send. */
export const BUILD_EGRESS_BYTES = 4096 * MiB;
export const MAX_EGRESS_BYTES = 1024 * 1024 * MiB;
/** The daemon ends an attempt whose agent did not answer for this long. */
export const AGENT_LOST_MS = 30_000;
export const AGENT_PING_MS = 2_000;

/** What the control server has not acknowledged of one stream of an attempt. */
export const STREAM_WINDOW_BYTES = 512 * KiB;
/** Of both output streams. */
export const OUTPUT_WINDOW_BYTES = 2 * STREAM_WINDOW_BYTES;

/** The writable layer of a sandbox. */
export const SCRATCH_MIB = 512;

/** How long one `?wait=` may last. */
export const MAX_WAIT_MS = 60_000;
