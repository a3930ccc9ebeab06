import {
  makeId,
  type GuestFrame,
  type HostFrame,
  type ProjectFile,
  type ServerMessage,
  type WorkerMessage,
} from '@cocore/protocol';
import { bytesOf } from './mutate.ts';

const [attemptId, executionId] = [makeId('attempt', 1, new Uint8Array(10)), makeId('execution', 1, new Uint8Array(10))];
const digest = `sha256:${'a'.repeat(64)}`;
const stream = { bytes: 3, sha256: digest, truncated: false };
const meter = { cpuMs: 1.5, memoryPeakBytes: 4096, wallMs: 20 };

/** One of each message that a worker sends. */
export const WORKER_MESSAGES: readonly WorkerMessage[] = [
  {
    type: 'WorkerHello',
    protocol: { min: 1, max: 1 },
    daemonVersion: '0.1.0',
    platform: 'linux',
    name: 'host',
    publicKey: 'A'.repeat(43),
    signature: 'B'.repeat(86),
    authority: 'localhost:8443',
    instance: 'C'.repeat(22),
    stopping: 'drain',
    joinToken: 'cj_x',
    capabilities: {
      driver: 'fake',
      isolation: 'container',
      cpus: 1.5,
      memoryMiB: 256,
      diskMiB: 1024,
      sandboxOverheadMiB: 0,
      egress: false,
    },
    inventory: [{ attemptId, started: true, heldFrom: { stdout: 0, stderr: 0, result: 0, artifacts: 0 } }],
  },
  { type: 'AttemptAccepted', attemptId, driver: 'fake', isolation: 'container' },
  { type: 'AttemptRefused', attemptId, cause: 'no_capacity' },
  { type: 'AttemptStarted', attemptId, agoMs: 1.5 },
  {
    type: 'AttemptEnded',
    attemptId,
    outcome: { kind: 'exited', code: 0 },
    message: 'it ended',
    stdout: stream,
    stderr: { ...stream, hashFrom: 1 },
    result: stream,
    artifacts: stream,
    artifactFiles: 1,
    usage: { host: meter, guest: null },
    signature: 'B'.repeat(86),
    final: true,
  },
  {
    type: 'AttemptEnded',
    attemptId,
    outcome: { kind: 'lost', cause: 'sandbox' },
    message: null,
    stdout: stream,
    stderr: stream,
    result: stream,
    artifacts: stream,
    artifactFiles: 0,
    usage: { host: null, guest: { cpuMs: null, memoryPeakBytes: null, wallMs: null } },
    signature: 'B'.repeat(86),
  },
  { type: 'WorkerHeartbeat', sequence: 1, attempts: [{ attemptId, agentAgeMs: 5 }] },
  { type: 'WorkerBlobs', added: [digest], removed: [] },
  { type: 'WorkerStopping', how: 'reclaim' },
];

/** One of each message that a control server sends. */
export const SERVER_MESSAGES: readonly ServerMessage[] = [
  { type: 'ServerChallenge', serverId: 's', nonce: 'A'.repeat(43), incarnation: 'one' },
  {
    type: 'ServerWelcome',
    protocol: 1,
    workerId: makeId('worker', 1, new Uint8Array(10)),
    sessionId: 'session',
    blobToken: 'token',
    heartbeatMs: 5000,
    leaseMs: 30_000,
    resume: [{ attemptId, channel: 1, offsets: { stdout: 0, stderr: 1, result: 2, artifacts: 3 } }],
    revoke: [attemptId],
    late: [attemptId],
  },
  { type: 'ServerRefusal', code: 'signature_invalid', message: 'no' },
  {
    type: 'AttemptAssign',
    attemptId,
    executionId,
    channel: 1,
    task: {
      argv: ['/bin/sh', '-c', 'true'],
      env: { HOME: '/' },
      cwd: '/function',
      user: { uid: 0, gid: 0, additionalGids: [1] },
      image: { digest, bytes: 1 },
      code: { digest, bytes: 1 },
      stdin: { base64: 'aGk=' },
      files: [
        { name: 'a.txt', base64: 'aGk=' },
        { name: 'b.txt', digest, bytes: 2 },
      ],
      memoryMiB: 256,
      cpus: 1,
      scratchMiB: 512,
      prepareTimeoutMs: 1000,
      runTimeoutMs: 1000,
      outputLimitBytes: 1000,
      artifactsLimitBytes: 1000,
      network: { mode: 'none' },
      stopSignal: 15,
      stopGraceMs: 100,
    },
  },
  { type: 'AttemptCancel', attemptId },
  { type: 'AttemptRevoke', attemptId, why: 'lost', report: true },
  { type: 'DrainNotice', draining: true },
  { type: 'AttemptAcceptedAck', attemptId },
  { type: 'AttemptEndedAck', attemptId },
  { type: 'OutputAck', channel: 1, stream: 'stdout', offset: 10 },
  { type: 'HeartbeatAck', sequence: 1, cancel: [attemptId], revoke: [attemptId] },
];

/** One of each frame that a guest sends. */
export const GUEST_FRAMES: readonly GuestFrame[] = [
  { type: 'HELLO', version: 2, nonce: new Uint8Array(16), agentVersion: '0.1.0' },
  { type: 'STARTED', monotonicNs: 5n },
  { type: 'STDOUT', offset: 0, data: bytesOf('out') },
  { type: 'STDERR', offset: 2 ** 40, data: bytesOf('err') },
  { type: 'RESULT', offset: 0, data: bytesOf('{}') },
  { type: 'ARTIFACTS', offset: 0, data: new Uint8Array(1024) },
  {
    type: 'EXIT',
    kind: 'exited',
    oom: false,
    code: 3,
    stdoutLength: 3,
    stderrLength: 3,
    resultLength: 2,
    artifactsLength: 1024,
    artifactFiles: 1,
    cpuUs: 10,
    memoryPeakBytes: 4096,
    refused: 'result',
    message: 'é',
  },
  { type: 'PONG', token: 2n ** 64n - 1n },
  { type: 'STDIN_ACK', offset: 7 },
  { type: 'FAULT', stage: 'start', errno: 2, message: 'no such file' },
];

/** One of each frame that a host sends. */
export const HOST_FRAMES: readonly HostFrame[] = [
  { type: 'HELLO', version: 2, nonce: new Uint8Array(16) },
  { type: 'TASK', artifactsLimit: 5, config: bytesOf('{}') },
  { type: 'STDIN', offset: 1, data: bytesOf('in') },
  { type: 'STDIN_END', length: 3 },
  { type: 'SIGNAL', signal: 15 },
  { type: 'SEED', epochNs: 1n, entropy: new Uint8Array(32) },
  { type: 'PING', token: 1n },
  { type: 'ACK', stream: 'artifacts', offset: 5 },
  { type: 'POWEROFF' },
  { type: 'FILE', user: 0, group: 0, size: 3, path: '/a' },
  { type: 'FILE_DATA', data: bytesOf('abc') },
];

export const PROJECT_FILES: readonly ProjectFile[] = [
  {
    $schema: 'https://example.org/cocore.schema.json',
    name: 'resize',
    runtime: 'python',
    entry: 'src/main.py',
    handler: 'handle',
    memoryMiB: 256,
    cpus: 2,
    timeoutMs: 60_000,
    outputLimitBytes: 1000,
    env: { LEVEL: 'info' },
    isolation: 'microvm',
    retries: { max: 2, on: ['exit_code'], backoffMs: 10 },
  },
];

export const RECIPES: readonly unknown[] = [
  {
    name: 'python',
    extensions: ['.py'],
    interpreters: ['python3'],
    entries: ['main.py'],
    manifest: { file: 'pyproject.toml', field: 'main' },
    image: { builtIn: 'base' },
    program: ['python3', '{entry}'],
    env: { PYTHONUNBUFFERED: '1' },
    build: {
      when: [{ file: 'requirements.txt', field: 'x' }],
      unless: ['vendor'],
      inputs: ['*.txt'],
      image: { reference: 'python:3.12' },
      command: ['pip', 'install'],
      into: 'lib',
    },
  },
];

const layer = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 10 };

export const MANIFESTS: readonly unknown[] = [
  { schemaVersion: 2, config: { digest, size: 10 }, layers: [layer, layer] },
  {
    schemaVersion: 2,
    manifests: [
      { digest, size: 10, platform: { os: 'unknown', architecture: 'unknown' } },
      { digest, size: 10, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } },
      { digest, size: 10, platform: { os: 'linux', architecture: 'amd64' } },
    ],
  },
];

export const IMAGE_CONFIGS: readonly unknown[] = [
  {
    os: 'linux',
    architecture: 'amd64',
    config: {
      Entrypoint: ['/bin/sh'],
      Cmd: ['-c', 'true'],
      Env: ['PATH=/bin'],
      WorkingDir: '/srv',
      User: '1:1',
      StopSignal: 'SIGINT',
    },
    rootfs: { type: 'layers', diff_ids: [digest] },
  },
];

export const INSIDE_MESSAGES: readonly unknown[] = [
  { type: 'progress', phase: 'pulling', bytes: 1, totalBytes: 2, layers: 0, totalLayers: 1 },
  { type: 'resolved', indexDigest: digest, manifestDigest: digest },
  { type: 'verified', digest, bytes: 5 },
  { type: 'spoiled', digest },
  {
    type: 'done',
    config: {
      entrypoint: ['/bin/sh'],
      command: [],
      environment: ['A=b'],
      workingDirectory: '/',
      user: { uid: 0, gid: 0, additionalGids: [], home: '/root' },
      stopSignal: null,
    },
  },
  { type: 'failed', code: 'image_refused', message: 'no' },
];
