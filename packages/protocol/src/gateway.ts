import { z } from 'zod';
import { FileName, MeterReading } from './api.ts';
import { CocoreError } from './errors.ts';
import { AttemptId, ExecutionId, Sha256, WorkerId } from './ids.ts';
import { IsolationClass } from './isolation.ts';
import { ATTEMPT_STREAMS, AttemptStream, StreamEnd } from './leavings.ts';
import {
  MAX_ARTIFACT_ENTRIES,
  MAX_ARTIFACTS_LIMIT_BYTES,
  MAX_FILES,
  MAX_STOP_GRACE_MS,
  MAX_TOLD_BLOBS,
} from './limits.ts';
import { EgressUsage, Network } from './network.ts';
import { Outcome } from './outcome.ts';
import { invalidRequest } from './problem.ts';

/**
 * The worker's conversation: one WebSocket, dialled by the daemon, subprotocol `cocore.worker.v1`.
 *
 * The server speaks first (`ServerChallenge`); the worker answers with `WorkerHello`, signed; the server answers with `ServerWelcome` or
 * `ServerRefusal` and closes. After that: text frames are the JSON messages below, binary frames carry the
 * streams of attempts.
 * Reports (`Attempt…` from the worker) are idempotent facts keyed by attempt: the same fact again is acknowledged again.
 *
 * Both sides may be of different releases: fields and messages that one does not know are ignored by it (`docs/reference/compatibility.md`).
 */
export const GATEWAY_SUBPROTOCOL = 'cocore.worker.v1';
export const GATEWAY_PATH = '/v1/worker/session';
export const GATEWAY_PROTOCOL_VERSION = 1;
/** A text frame longer than this closes the session. Arguments of 1 MiB grow sixfold in JSON at worst. */
export const MAX_GATEWAY_TEXT_BYTES = 8 * 1024 * 1024;
export const MAX_OUTPUT_FRAME_DATA_BYTES = 64 * 1024;

const Channel = z.int().min(1).max(0xffff_ffff);
const Offset = z.int().min(0);
const StreamOffsets = z.object({ stdout: Offset, stderr: Offset, result: Offset, artifacts: Offset });
const DurationMs = z.number().min(0);
const Base64Url = z.string().regex(/^[A-Za-z0-9_-]+$/);

// --- The handshake

/** Random, of the server's store: another one after it came out of a backup. */
const Incarnation = z.string().min(1).max(128);

export const ServerChallenge = z.object({
  type: z.literal('ServerChallenge'),
  /** Random, made once for each data directory; the worker remembers the one it joined. */
  serverId: z.string().min(1).max(128),
  nonce: Base64Url.length(43),
  incarnation: Incarnation.optional(),
});

export const Capabilities = z.object({
  driver: z.string().min(1).max(32),
  isolation: IsolationClass,
  /** What the owner leases, not what the host has. */
  cpus: z.number().positive(),
  memoryMiB: z.int().positive(),
  diskMiB: z.int().positive(),
  /** What one sandbox costs beyond the function's own memory. */
  sandboxOverheadMiB: z.int().min(0),
  /** It can give functions a network, and its owner lets them have it. */
  egress: z.boolean().default(false),
});
export type Capabilities = z.infer<typeof Capabilities>;

export const InventoryEntry = z.object({
  attemptId: AttemptId,
  started: z.boolean(),
  /** Its end is known and comes after the welcome. */
  ended: z.boolean().optional(),
  /** From which byte on the worker has what each stream held; without it from as far as the server acknowledged. */
  heldFrom: StreamOffsets.optional(),
});

/** How a daemon stops: it finishes what it has, or ends it at once. */
export const StopKind = z.enum(['drain', 'reclaim']);
export type StopKind = z.infer<typeof StopKind>;

export const WorkerHello = z.object({
  type: z.literal('WorkerHello'),
  protocol: z.object({ min: z.int().min(1), max: z.int().min(1) }),
  daemonVersion: z.string().min(1).max(64),
  platform: z.string().min(1).max(200),
  name: z.string().min(1).max(128),
  /** Ed25519, raw 32 bytes. */
  publicKey: Base64Url.length(43),
  /** Over `helloStatement`. */
  signature: Base64Url.length(86),
  /** The address that the worker dialled, as `host:port`: part of what is signed. */
  authority: z.string().min(1).max(300),
  /** Random, made once in each life of a daemon: two that are heard at once are two daemons with one key. */
  instance: Base64Url.max(64).optional(),
  /** Its owner has it take nothing more. */
  stopping: StopKind.optional(),
  /** On the first hello of an identity only. */
  joinToken: z.string().max(2000).optional(),
  capabilities: Capabilities,
  /** Every attempt that is alive on the host, or ended and not yet acknowledged. */
  inventory: z.array(InventoryEntry).max(10_000),
});
export type WorkerHello = z.infer<typeof WorkerHello>;

/** What a worker signs: bound to the server, to the address dialled and to this connection's nonce. */
export function helloStatement(of: { serverId: string; authority: string; nonce: string; publicKey: string }): string {
  return [GATEWAY_SUBPROTOCOL, 'hello', of.serverId, of.authority, of.nonce, of.publicKey].join('\n');
}

export const ServerWelcome = z.object({
  type: z.literal('ServerWelcome'),
  protocol: z.int().min(1),
  workerId: WorkerId,
  sessionId: z.string().min(1).max(128),
  /** Where it is another one than before, the worker destroys what is not resumed. */
  incarnation: Incarnation.optional(),
  /** It takes ends whose signature is shared (`end-signature.ts`). */
  sharedSignatures: z.boolean().optional(),
  /** Bearer of this session for `GET /v1/worker/blobs/{digest}`. */
  blobToken: z.string().min(1).max(256),
  heartbeatMs: z.int().positive(),
  leaseMs: z.int().positive(),
  /** Attempts of the inventory that go on, and the committed length of their streams to send on from. */
  resume: z.array(
    z.object({
      attemptId: AttemptId,
      channel: Channel,
      offsets: StreamOffsets,
    }),
  ),
  /** Attempts of the inventory that are no longer this worker's: destroy them, report nothing. */
  revoke: z.array(AttemptId),
  /** Those of them whose end is wanted all the same, as evidence: the worker still reports it. */
  late: z.array(AttemptId).optional(),
});
export type ServerWelcome = z.infer<typeof ServerWelcome>;

export const ServerRefusal = z.object({
  type: z.literal('ServerRefusal'),
  code: z.string(),
  message: z.string(),
});

// --- Work

export const BlobRef = z.object({ digest: Sha256, bytes: z.int().min(0) });
export type BlobRef = z.infer<typeof BlobRef>;

/** Ids inside the container. */
export const ContainerUser = z.object({
  uid: z.int().min(0).max(65_535),
  gid: z.int().min(0).max(65_535),
  additionalGids: z.array(z.int().min(0).max(65_535)).max(64),
});
export type ContainerUser = z.infer<typeof ContainerUser>;
export const ROOT_USER: ContainerUser = { uid: 0, gid: 0, additionalGids: [] };

/** A file that a function is given, and its bytes or where they are. */
export const TaskFile = z.union([
  z.object({ name: FileName, base64: z.base64() }),
  z.object({ name: FileName, digest: Sha256, bytes: z.int().min(0) }),
]);
export type TaskFile = z.infer<typeof TaskFile>;

/** All that a daemon needs to run one attempt. Paths are those inside the sandbox. */
export const TaskSpec = z.object({
  /** The whole command: interpreter, file, arguments. */
  argv: z.array(z.string()).min(1),
  env: z.record(z.string(), z.string()),
  cwd: z.string(),
  user: ContainerUser,
  /** Root file system, erofs. */
  image: BlobRef,
  /** The function's code, erofs, seen at `/function`. */
  code: BlobRef,
  stdin: z.union([z.object({ base64: z.base64() }), BlobRef]).nullable(),
  /** Put into the working directory before the start, as the user's. */
  files: z.array(TaskFile).max(MAX_FILES),
  memoryMiB: z.int().positive(),
  cpus: z.int().positive(),
  scratchMiB: z.int().positive(),
  prepareTimeoutMs: z.int().positive(),
  runTimeoutMs: z.int().positive(),
  outputLimitBytes: z.int().positive(),
  /** Of what the function leaves in `$COCORE_OUT`, as an archive. */
  artifactsLimitBytes: z.int().min(0).max(MAX_ARTIFACTS_LIMIT_BYTES),
  network: Network,
  /** What asks the function's process to stop; SIGTERM without it. */
  stopSignal: z.int().min(1).max(64).optional(),
  /** From then on it has so long; `DEFAULT_STOP_GRACE_MS` without it. */
  stopGraceMs: z.int().min(0).max(MAX_STOP_GRACE_MS).optional(),
});
export type TaskSpec = z.infer<typeof TaskSpec>;

export const AttemptAssign = z.object({
  type: z.literal('AttemptAssign'),
  attemptId: AttemptId,
  executionId: ExecutionId,
  channel: Channel,
  task: TaskSpec,
});
export type AttemptAssign = z.infer<typeof AttemptAssign>;

/** The user wants it stopped. The worker still reports how it ended. */
export const AttemptCancel = z.object({ type: z.literal('AttemptCancel'), attemptId: AttemptId });
/** It is no longer this worker's: destroy it, report nothing. */
export const AttemptRevoke = z.object({
  type: z.literal('AttemptRevoke'),
  attemptId: AttemptId,
  why: z.string(),
  /** Its end is wanted all the same, as evidence. */
  report: z.boolean().optional(),
});
/** The operator gives the worker nothing more, or work again. It need not do anything; after the welcome it is told where it is so. */
export const DrainNotice = z.object({ type: z.literal('DrainNotice'), draining: z.boolean() });
/**
 * The acceptance is committed, and from now on no other worker is given the attempt. Told of attempts with a network, whose function begins no earlier:
 * an acceptance that comes too late, and is taken back, has had no effect that its successor would repeat.
 */
export const AttemptAcceptedAck = z.object({ type: z.literal('AttemptAcceptedAck'), attemptId: AttemptId });
/** The end is committed: the worker may forget the attempt. */
export const AttemptEndedAck = z.object({ type: z.literal('AttemptEndedAck'), attemptId: AttemptId });
/** All bytes before the offset are durable; it is also the credit to send more. */
export const OutputAck = z.object({
  type: z.literal('OutputAck'),
  channel: Channel,
  stream: AttemptStream,
  offset: Offset,
});
/**
 * Beside the acknowledgement, what the beat shows that the worker may not have heard: of the attempts that it names, those that are to be stopped and
 * those that are not its own.
 */
export const HeartbeatAck = z.object({
  type: z.literal('HeartbeatAck'),
  sequence: z.int().min(0),
  cancel: z.array(AttemptId).optional(),
  revoke: z.array(AttemptId).optional(),
});

export const AttemptAccepted = z.object({
  type: z.literal('AttemptAccepted'),
  attemptId: AttemptId,
  driver: z.string().min(1).max(32),
  isolation: IsolationClass,
});
export const AttemptRefused = z.object({
  type: z.literal('AttemptRefused'),
  attemptId: AttemptId,
  cause: z.enum(['no_capacity', 'stopping']),
});
/** What the attempt waits for before its sandbox can be made; null when all of it is there. Told only where something has to be fetched. */
export const AttemptPreparing = z.object({
  type: z.literal('AttemptPreparing'),
  attemptId: AttemptId,
  fetching: BlobRef.nullable(),
});
export type AttemptPreparing = z.infer<typeof AttemptPreparing>;
/** The agent's word that the function's process runs. */
export const AttemptStarted = z.object({
  type: z.literal('AttemptStarted'),
  attemptId: AttemptId,
  /** How long ago, by the worker's clock: delivery may be late. */
  agoMs: DurationMs,
});

/** Alone, or shared by at most 64 ends: then with an index, how many they are, and a path of one to six hashes. */
const EndSignature = z
  .string()
  .regex(/^[A-Za-z0-9_-]{86}(?:\.(?:0|[1-9]\d?)\.(?:[2-9]|[1-5]\d|6[0-4])\.[A-Za-z0-9_-]{43,258})?$/);

export const AttemptEnded = z.object({
  type: z.literal('AttemptEnded'),
  attemptId: AttemptId,
  outcome: Outcome,
  /** One line for people: the runtime's last word, the driver's error. Never trusted, always bounded. */
  message: z.string().max(1000).nullable(),
  stdout: StreamEnd,
  stderr: StreamEnd,
  result: StreamEnd,
  artifacts: StreamEnd,
  /** Regular files among the artifacts, as the guest counted them. */
  artifactFiles: z.int().min(0).max(MAX_ARTIFACT_ENTRIES),
  usage: z.object({
    host: MeterReading.nullable(),
    guest: MeterReading.nullable(),
    /** Only where it had a network. */
    egress: EgressUsage.optional(),
  }),
  /** By the worker's identity key; kept as evidence. In which forms is told in `end-signature.ts`. */
  signature: EndSignature,
  /** The worker has no more of the streams than it sent: what is missing will not come. Not part of what is signed. */
  final: z.boolean().optional(),
});
export type AttemptEnded = z.infer<typeof AttemptEnded>;

/** What a worker signs about an end, or hashes as a leaf of the tree of which it signs the root. */
export function endStatement(ended: Omit<AttemptEnded, 'type' | 'signature' | 'message' | 'final'>): string {
  const { attemptId, outcome, stdout, stderr, result, artifacts, artifactFiles, usage } = ended;
  const stream = ({ bytes, sha256, truncated, hashFrom }: StreamEnd) =>
    hashFrom === undefined ? [bytes, sha256, truncated] : [bytes, sha256, truncated, hashFrom];
  const meter = (reading: MeterReading | null) =>
    reading === null ? null : [reading.cpuMs, reading.memoryPeakBytes, reading.wallMs];
  const egress = ({ sentBytes, receivedBytes, connections, refused, limited }: EgressUsage) => [
    sentBytes,
    receivedBytes,
    connections,
    refused,
    limited,
  ];
  const { kind, ...rest } = outcome;
  const facts = [
    attemptId,
    kind,
    Object.values(rest),
    stream(stdout),
    stream(stderr),
    stream(result),
    stream(artifacts),
    artifactFiles,
    meter(usage.host),
    meter(usage.guest),
    ...(usage.egress === undefined ? [] : [egress(usage.egress)]),
  ];
  return `${GATEWAY_SUBPROTOCOL}\nended\n${JSON.stringify(facts)}`;
}

export const WorkerHeartbeat = z.object({
  type: z.literal('WorkerHeartbeat'),
  sequence: z.int().min(0),
  attempts: z
    .array(
      z.object({
        attemptId: AttemptId,
        /** How long ago the agent last answered; null before its first word. */
        agentAgeMs: z.int().min(0).nullable(),
      }),
    )
    .max(10_000),
});

/** From now on it takes nothing more, by its owner's will. */
export const WorkerStopping = z.object({ type: z.literal('WorkerStopping'), how: StopKind });
export type WorkerStopping = z.infer<typeof WorkerStopping>;

/** Large blobs that the worker has from now on, or has no more, since it last told; all that it has after a welcome. */
export const WorkerBlobs = z.object({
  type: z.literal('WorkerBlobs'),
  added: z.array(Sha256).max(MAX_TOLD_BLOBS),
  removed: z.array(Sha256).max(MAX_TOLD_BLOBS),
});
export type WorkerBlobs = z.infer<typeof WorkerBlobs>;

export const ServerMessage = z.discriminatedUnion('type', [
  ServerChallenge,
  ServerWelcome,
  ServerRefusal,
  AttemptAssign,
  AttemptCancel,
  AttemptRevoke,
  AttemptAcceptedAck,
  AttemptEndedAck,
  OutputAck,
  HeartbeatAck,
  DrainNotice,
]);
export type ServerMessage = z.infer<typeof ServerMessage>;

export const WorkerMessage = z.discriminatedUnion('type', [
  WorkerHello,
  AttemptAccepted,
  AttemptRefused,
  AttemptPreparing,
  AttemptStarted,
  AttemptEnded,
  WorkerHeartbeat,
  WorkerBlobs,
  WorkerStopping,
]);
export type WorkerMessage = z.infer<typeof WorkerMessage>;

const typesOf = (schema: typeof ServerMessage | typeof WorkerMessage): ReadonlySet<string> =>
  new Set(schema.options.map(({ shape }) => shape.type.value));
const SERVER_TYPES = typesOf(ServerMessage);
const WORKER_TYPES = typesOf(WorkerMessage);

/** Null for a type that neither side has here. @throws CocoreError `protocol_violation` */
function parseMessage<T>(schema: z.ZodType<T>, text: string): T | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CocoreError('protocol_violation', 'a message is not JSON', { cause });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const type = typeof value === 'object' && value !== null && 'type' in value ? value.type : null;
  if (typeof type === 'string' && !SERVER_TYPES.has(type) && !WORKER_TYPES.has(type)) return null;
  throw new CocoreError('protocol_violation', invalidRequest(parsed.error, 'a message').message);
}

/** Null for a message that another release knows. @throws CocoreError `protocol_violation` */
export const parseServerMessage = (text: string): ServerMessage | null => parseMessage(ServerMessage, text);
/** Null for a message that another release knows. @throws CocoreError `protocol_violation` */
export const parseWorkerMessage = (text: string): WorkerMessage | null => parseMessage(WorkerMessage, text);

// --- Output frames

/** Worker to server: bytes of one stream of one attempt, which the channel number names within this session. */
export interface OutputFrame {
  readonly channel: number;
  readonly stream: AttemptStream;
  readonly offset: number;
  /** 1 to 65,536 bytes. */
  readonly data: Uint8Array;
}

const OUTPUT_FRAME_VERSION = 1;
const OUTPUT_FRAME_TYPE = 1;
/** version u8, type u8, stream u8, zero u8, channel u32, offset u64; little endian. */
export const OUTPUT_HEADER_BYTES = 16;

/** Writes the header of a message; its data belongs right behind it. */
export function beginOutputFrame(bytes: Uint8Array, frame: Omit<OutputFrame, 'data'>): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, OUTPUT_HEADER_BYTES);
  bytes[0] = OUTPUT_FRAME_VERSION;
  bytes[1] = OUTPUT_FRAME_TYPE;
  bytes[2] = ATTEMPT_STREAMS.indexOf(frame.stream) + 1;
  bytes[3] = 0;
  view.setUint32(4, frame.channel, true);
  view.setBigUint64(8, BigInt(frame.offset), true);
}

/** One binary message. */
export function encodeOutputFrame(frame: OutputFrame): Uint8Array {
  const bytes = new Uint8Array(OUTPUT_HEADER_BYTES + frame.data.length);
  beginOutputFrame(bytes, frame);
  bytes.set(frame.data, OUTPUT_HEADER_BYTES);
  return bytes;
}

/**
 * The data is a view into `bytes`, not a copy.
 *
 * @throws CocoreError `protocol_violation`
 */
export function decodeOutputFrame(bytes: Uint8Array): OutputFrame {
  const bad = (what: string) => new CocoreError('protocol_violation', `an output frame ${what}`);
  const length = bytes.length - OUTPUT_HEADER_BYTES;
  if (length < 1 || length > MAX_OUTPUT_FRAME_DATA_BYTES) throw bad(`carries ${length} bytes`);
  if (bytes[0] !== OUTPUT_FRAME_VERSION || bytes[1] !== OUTPUT_FRAME_TYPE || bytes[3] !== 0) {
    throw bad('has an unknown version or type');
  }
  const stream = ATTEMPT_STREAMS[bytes[2]! - 1];
  if (stream === undefined) throw bad('names an unknown stream');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const offset = view.getBigUint64(8, true);
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) throw bad('has an offset out of range');
  return {
    channel: view.getUint32(4, true),
    stream,
    offset: Number(offset),
    data: bytes.subarray(OUTPUT_HEADER_BYTES),
  };
}
