import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CocoreError,
  decodeOutputFrame,
  encodeGuestFrame,
  encodeHostFrame,
  encodeOutputFrame,
  endStatement,
  type ErrorCode,
  type GuestFrame,
  guestFrameDecoder,
  GuestProtocolError,
  type HostFrame,
  hostFrameDecoder,
  isDeeperThan,
  MAX_JSON_DEPTH,
  parseResult,
  parseServerMessage,
  parseWorkerMessage,
  PROJECT_FILE,
} from '@cocore/protocol';
import { readProjectFile } from '../../packages/cli/src/source/project-file.ts';
import { entriesOf } from '../../packages/cli/src/unpack.ts';
import { readArchive } from '../../packages/control/src/code/code-archive.ts';
import { Content } from '../../packages/control/src/code/content.ts';
import { readConfig as readServerConfig } from '../../packages/control/src/config.ts';
import { parseJsonBody } from '../../packages/control/src/http/json-body.ts';
import { ImportFailure } from '../../packages/control/src/importer/inside/failure.ts';
import { readConfig, readDocument } from '../../packages/control/src/importer/inside/manifest.ts';
import { InsideMessageSchema } from '../../packages/control/src/importer/inside-messages.ts';
import { parseReference } from '../../packages/control/src/importer/reference.ts';
import { Recipes } from '../../packages/control/src/runtimes/recipes.ts';
import { parseCommand } from '../../packages/worker/src/config.ts';
import { answerTo, parseQuestion } from '../../packages/worker/src/network/dns-message.ts';
import { GateNewsDecoder } from '../../packages/worker/src/network/gate-frames.ts';
import { Endpoint } from '../../packages/worker/src/session/endpoint.ts';
import { parseJoinToken } from '../../packages/worker/src/session/join-token.ts';
import { tar } from '../../packages/control/test/support/tar.ts';
import type { Random } from '../faults/random.ts';
import { ARCHIVES } from './archives.ts';
import * as examples from './examples.ts';
import { bytesOf, jsonBytes, jsonText, mutateBytes, mutateText } from './mutate.ts';
import type { Target } from './target.ts';

/** Every reader that needs nothing that runs. What they read is bytes or text of another trust zone; none has an effect. */
export function parserTargets(): Target[] {
  return [
    workerMessages,
    serverMessages,
    outputFrames,
    guestFrames,
    hostFrames,
    results,
    jsonBodies,
    manifests,
    imageConfigs,
    insideMessages,
    imageReferences,
    codeArchives,
    artifacts,
    projectFiles,
    recipes,
    workerCommands,
    serverCommands,
    joinTokens,
    nameQuestions,
    gateNews,
  ] as Target[];
}

/** The longest that an error says to a stranger, or of what a stranger sent. */
const MAX_MESSAGE_LENGTH = 14_000;

/** What `read` gives; undefined where it refuses, as it may only with one of these codes. */
function accepted<T>(read: () => T, ...codes: ErrorCode[]): T | undefined {
  try {
    return read();
  } catch (error) {
    checkRefusal(error, codes);
    return undefined;
  }
}

function checkRefusal(error: unknown, codes: readonly ErrorCode[]): void {
  if (!(error instanceof CocoreError) || !codes.includes(error.code)) throw error;
  assert.ok(error.message.length <= MAX_MESSAGE_LENGTH, `a message of ${error.message.length} characters`);
}

/** JSON has one zero. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

const text = (of: readonly unknown[]) => (random: Random) => jsonText(random, of);

const workerMessages: Target<string> = {
  name: 'worker-messages',
  corpus: ['', '{', 'null', '[]', '{"type":"__proto__"}', '{"type":"constructor"}', `${'['.repeat(100_000)}`],
  make: text(examples.WORKER_MESSAGES),
  check: (input) => {
    const message = accepted(() => parseWorkerMessage(input), 'protocol_violation');
    if (message === undefined || message === null) return;
    assert.deepEqual(plain(parseWorkerMessage(JSON.stringify(message))), plain(message));
    if (message.type === 'AttemptEnded') assert.ok(endStatement(message).includes(message.attemptId));
  },
};

const serverMessages: Target<string> = {
  name: 'server-messages',
  corpus: ['', '{', 'null', '[]'],
  make: text(examples.SERVER_MESSAGES),
  check: (input) => {
    const message = accepted(() => parseServerMessage(input), 'protocol_violation');
    if (message === undefined || message === null) return;
    assert.deepEqual(plain(parseServerMessage(JSON.stringify(message))), plain(message));
  },
};

const OUTPUT_FRAMES = (['stdout', 'stderr', 'result', 'artifacts'] as const).map((stream, at) =>
  encodeOutputFrame({ channel: at + 1, stream, offset: at * 2 ** 31, data: Buffer.from('some output') }),
);

const outputFrames: Target<Uint8Array> = {
  name: 'output-frames',
  corpus: [new Uint8Array(0), new Uint8Array(16)],
  make: (random) => mutateBytes(random, random.pick(OUTPUT_FRAMES)),
  check: (input) => {
    const frame = accepted(() => decodeOutputFrame(input), 'protocol_violation');
    if (frame === undefined) return;
    // A frame has one spelling.
    assert.deepEqual(Buffer.from(encodeOutputFrame(frame)), Buffer.from(input));
  },
};

interface Pieces {
  readonly bytes: Uint8Array;
  /** How long each piece is in which they come; the last one again and again. */
  readonly lengths: readonly number[];
}

function piecesOf(bytes: Uint8Array, lengths: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let [at, number] = [0, 0]; at < bytes.length; number += 1) {
    const length = lengths[Math.min(number, lengths.length - 1)]!;
    pieces.push(bytes.slice(at, at + length));
    at += length;
  }
  return pieces;
}

interface Read<Frame> {
  readonly frames: Frame[];
  readonly error: string | null;
}

/** In whatever pieces bytes come, the frames are the same, and are the bytes again. */
function frames<Frame>(
  name: string,
  all: readonly Frame[],
  encode: (frame: Frame) => Uint8Array,
  makeDecoder: () => { push(bytes: Uint8Array): Iterable<Frame> },
  corpus: readonly Pieces[],
): Target<Pieces> {
  const read = (pieces: readonly Uint8Array[]): Read<Frame> => {
    const [decoder, frames] = [makeDecoder(), [] as Frame[]];
    try {
      for (const piece of pieces) for (const frame of decoder.push(piece)) frames.push(frame);
      return { frames, error: null };
    } catch (error) {
      if (!(error instanceof GuestProtocolError)) throw error;
      return { frames, error: error.error };
    }
  };
  return {
    name,
    corpus,
    make: (random) => {
      const several = Array.from({ length: random.int(1, 5) }, () => encode(random.pick(all)));
      const bytes = mutateBytes(random, Buffer.concat(several));
      return { bytes, lengths: Array.from({ length: 4 }, () => random.pick([1, 2, 5, 64, 70_000])) };
    },
    check: ({ bytes, lengths }) => {
      const inPieces = read(piecesOf(bytes, lengths));
      assert.deepEqual(inPieces, read([bytes]));
      const again = Buffer.concat(inPieces.frames.map(encode));
      assert.deepEqual(again, Buffer.from(bytes.subarray(0, again.length)));
    },
  };
}

const long = Uint8Array.from(
  Buffer.concat(
    Array.from({ length: 3 }, () => encodeGuestFrame({ type: 'STDOUT', offset: 0, data: new Uint8Array(65_536) })),
  ),
);
const guestFrames = frames<GuestFrame>('guest-frames', examples.GUEST_FRAMES, encodeGuestFrame, guestFrameDecoder, [
  { bytes: long, lengths: [1] },
  { bytes: long, lengths: [3, 7, 1] },
]);
const hostFrames = frames<HostFrame>('host-frames', examples.HOST_FRAMES, encodeHostFrame, hostFrameDecoder, []);

const results: Target<Uint8Array> = {
  name: 'results',
  corpus: [bytesOf('['.repeat(200_000)), bytesOf('"\\ud800"')],
  make: (random) =>
    jsonBytes(random, [{ $cocoreError: { type: 'ValueError', message: 'no', stack: null } }, { ok: [1, 'two'] }]),
  check: (input) => {
    for (const failed of [false, true]) {
      const result = parseResult(input, failed);
      if (result.kind === 'value') assert.ok(!isDeeperThan(JSON.parse(result.json), MAX_JSON_DEPTH));
      if (result.kind === 'invalid') assert.ok(result.message.length <= 500 && result.message.isWellFormed());
      if (result.kind === 'exception') {
        assert.ok(failed);
        const { type, message, stack } = result.error;
        for (const one of [type, message, stack ?? '']) assert.ok(one.length <= 65_536 && one.isWellFormed());
      }
    }
  },
};

/** No part of it has lost its way to a prototype. */
function hasProto(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return Object.hasOwn(value, '__proto__') || Object.values(value).some(hasProto);
}

const jsonBodies: Target<Uint8Array> = {
  name: 'json-bodies',
  corpus: [
    bytesOf('{"__proto__":1}'),
    bytesOf('{"\\u005f_proto__":1}'),
    bytesOf('{"__\\u0070roto__":1}'),
    bytesOf('['.repeat(60_000)),
    bytesOf(`${'['.repeat(30_000)}"__proto__"${']'.repeat(30_000)}`),
  ],
  make: (random) => jsonBytes(random, [{ args: ['a'], env: { A: 'b' }, event: { deep: [{}] } }]),
  check: (input) => {
    const value = accepted(() => parseJsonBody(input), 'invalid_json', 'invalid_text', 'invalid_request');
    if (value !== undefined && !isDeeperThan(value, 1000)) assert.ok(!hasProto(value), 'it has __proto__ of its own');
  },
};

const PLATFORM = { os: 'linux', architecture: 'amd64' };

/** What `read` gives; undefined where it refuses the image. */
function imported<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ImportFailure) || error.code !== 'image_refused') throw error;
    assert.match(error.message, /^[\x20-\x7e]{1,400}…?[\x20-\x7e]{0,100}$/);
    return undefined;
  }
}

const manifests: Target<Uint8Array> = {
  name: 'manifests',
  corpus: [
    bytesOf('{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":{"toString":1,"valueOf":1}}}]}'),
    bytesOf(
      `{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":${'['.repeat(30_000)}${']'.repeat(30_000)}}}]}`,
    ),
  ],
  make: (random) => jsonBytes(random, examples.MANIFESTS),
  check: (input) => {
    const document = imported(() => readDocument(Buffer.from(input), PLATFORM));
    if (document === undefined) return;
    const { digests, sizes } =
      document.kind === 'index'
        ? { digests: [document.digest], sizes: [] }
        : {
            digests: [document.manifest.config, ...document.manifest.layers].map(({ digest }) => digest),
            sizes: [document.manifest.config, ...document.manifest.layers].map(({ bytes }) => bytes),
          };
    for (const digest of digests) assert.match(digest, /^sha256:[0-9a-f]{64}$/);
    for (const bytes of sizes) assert.ok(Number.isSafeInteger(bytes) && bytes >= 0);
  },
};

const imageConfigs: Target<Uint8Array> = {
  name: 'image-configs',
  corpus: [],
  make: (random) => jsonBytes(random, examples.IMAGE_CONFIGS),
  check: (input) => {
    const config = imported(() => readConfig(Buffer.from(input), PLATFORM));
    if (config === undefined) return;
    const { entrypoint, command, environment, diffIds, workingDirectory, user, stopSignal } = config;
    for (const one of [entrypoint, command, environment, diffIds, [workingDirectory, user, stopSignal ?? '']].flat())
      assert.ok(typeof one === 'string' && !one.includes('\0'));
  },
};

const insideMessages: Target<string> = {
  name: 'importer-messages',
  corpus: [],
  make: text(examples.INSIDE_MESSAGES),
  check: (input) => {
    let value: unknown;
    try {
      value = JSON.parse(input);
    } catch {
      return;
    }
    const parsed = InsideMessageSchema.safeParse(value);
    if (parsed.success) assert.deepEqual(InsideMessageSchema.parse(plain(parsed.data)), plain(parsed.data));
  },
};

const REFERENCES = [
  'debian',
  'python:3.12-slim',
  'ghcr.io/owner/name:tag',
  `localhost:5000/a/b@sha256:${'0'.repeat(64)}`,
  '127.0.0.1:5000/a__b/c-d',
];

const imageReferences: Target<string> = {
  name: 'image-references',
  corpus: ['localhost:0/a', 'localhost:99999/a', '127.1:1/a', `${'a-'.repeat(255)}!`, `${'a'.repeat(500)}/`],
  make: (random) => mutateText(random, random.pick(REFERENCES)),
  check: (input) => {
    const reference = accepted(() => parseReference(input), 'invalid_request');
    if (reference === undefined) return;
    assert.match(reference.full, /^[\x21-\x7e]{1,600}$/);
    assert.deepEqual(parseReference(reference.full), reference);
    const port = reference.loopback?.port;
    if (port !== undefined) assert.ok(Number.isInteger(port) && port > 0 && port < 65_536, `the port ${port}`);
  },
};

/** The sum of a header is made right again: else nothing else in it would be looked at. */
function archive(random: Random): Uint8Array {
  const bytes = Buffer.from(mutateBytes(random, random.pick(ARCHIVES)));
  if (random.chance(0.1)) return bytes;
  for (let at = 0; at + 512 <= bytes.length; at += 512) {
    const header = bytes.subarray(at, at + 512);
    if (header.toString('latin1', 257, 262) !== 'ustar') continue;
    header.write('        ', 148, 'latin1');
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  }
  return bytes;
}

const codeArchives: Target<Uint8Array> = {
  name: 'code-archives',
  corpus: [],
  make: archive,
  check: async (input) => {
    try {
      for (const [path, node] of (await readArchive(Content.of(input))).nodes) {
        assert.ok(
          path.split('/').every((part) => part !== '' && part !== '.' && part !== '..'),
          path,
        );
        if (node.kind === 'file') assert.ok(node.content.bytes <= input.length);
      }
    } catch (error) {
      checkRefusal(error, ['code_invalid']);
    }
  },
};

const artifacts: Target<Uint8Array> = {
  name: 'artifacts',
  corpus: ['..', '../a', 'a/../../b', '/a', 'a//b', './a', 'a/.'].map((name) => tar([{ name }])),
  make: archive,
  check: async (input) => {
    const body = new Blob([Buffer.from(input)]).stream() as unknown as ReadableStream<Uint8Array>;
    try {
      for await (const { path, kind, bytes, content } of entriesOf(body)) {
        assert.ok(path !== '' && path.split('/').every((part) => part !== '' && part !== '.' && part !== '..'));
        let length = 0;
        for await (const piece of content) length += (piece as Uint8Array).length;
        if (kind === 'file') assert.equal(length, bytes);
      }
    } catch (error) {
      checkRefusal(error, ['archive_refused']);
    }
  },
};

/** With one file in a directory that goes again. */
function withFile<T>(name: string, content: Uint8Array | string, use: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'cocore-fuzz-'));
  try {
    writeFileSync(join(directory, name), content);
    return use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const projectFiles: Target<Uint8Array> = {
  name: 'project-files',
  corpus: [bytesOf('\ufeff{}'), bytesOf(''), bytesOf('['.repeat(100_000))],
  make: (random) => jsonBytes(random, examples.PROJECT_FILES),
  check: (input) => {
    const lines = Buffer.from(input).toString('utf8').split('\n').length;
    withFile(PROJECT_FILE, input, (directory) => {
      try {
        const project = readProjectFile(directory);
        writeFileSync(join(directory, PROJECT_FILE), JSON.stringify(project));
        assert.deepEqual(plain(readProjectFile(directory)), plain(project));
      } catch (error) {
        checkRefusal(error, ['project_invalid']);
        const line = Number(/cocore\.json:(\d+): /.exec((error as Error).message)?.[1]);
        assert.ok(line >= 1 && line <= lines, `line ${line} of ${lines}`);
      }
    });
  },
};

const recipes: Target<Uint8Array> = {
  name: 'recipes',
  corpus: [],
  make: (random) => jsonBytes(random, examples.RECIPES),
  check: (input) =>
    withFile('one.json', input, (directory) => {
      const read = () => Recipes.load(directory);
      const loaded = accepted(read, 'recipe_invalid');
      if (loaded === undefined) return;
      const { recipe } = loaded.named(loaded.list()[0]!.name);
      writeFileSync(join(directory, 'one.json'), JSON.stringify(recipe));
      assert.deepEqual(plain(read().named(recipe.name).recipe), plain(recipe));
    }),
};

/** Words of a command line, some of them changed, doubled or gone. */
function words(random: Random, line: readonly string[]): string[] {
  return line.flatMap((word) =>
    random.weighted<() => string[]>([
      [20, () => [word]],
      [1, () => []],
      [1, () => [word, word]],
      [1, () => [random.pick(['', '0', '-1', '1e3', '0x10', '99999999999', 'NaN', '\0', '--'])]],
      [2, () => [mutateText(random, word)]],
    ])(),
  );
}

const WORKER_LINE =
  '--server https://host:8443 --data-dir /nowhere --isolation auto --at-least gvisor --pool off --cpus 2 --memory 512 --disk 1024 --name one --insecure';

const workerCommands: Target<string[]> = {
  name: 'worker-configuration',
  corpus: [[], ['--server', '\0', '--data-dir', '\0'], ['--join-token-file', '\0']],
  make: (random) => words(random, WORKER_LINE.split(' ')),
  check: (input) => {
    const refusals: ErrorCode[] = ['usage', 'file_unreadable', 'insecure_refused'];
    const command = accepted(() => parseCommand(input, {}), ...refusals);
    if (command?.verb !== 'run') return;
    const { server: url, insecure, lease } = command.config;
    for (const amount of Object.values(lease)) assert.ok(amount === undefined || Number.isSafeInteger(amount));
    const endpoint = accepted(() => new Endpoint({ url, insecure }), ...refusals);
    if (endpoint !== undefined) assert.match(endpoint.authority, /^[^\s/]+:\d{1,5}$/);
  },
};

const SERVER_LINE =
  '--data-dir /nowhere --artifacts ARTIFACTS --host 127.0.0.1 --port 8443 --allow-host a --default-isolation gvisor --keep-executions 30d --keep-output 10GiB --idempotency-ttl 24h';

const serverCommands: Target<string[]> = {
  name: 'server-configuration',
  corpus: [[]],
  make: (random) => words(random, SERVER_LINE.split(' ')),
  check: (input) =>
    withFile('current.json', '{"baseImage":"/b","nodeImage":"/n"}', (directory) => {
      const line = input.map((word) => (word === 'ARTIFACTS' ? join(directory, 'current.json') : word));
      const config = accepted(() => readServerConfig(line, {}), 'usage', 'insecure_refused', 'artifact_missing');
      if (config === undefined) return;
      assert.ok(config.port >= 0 && config.port <= 65_535);
      const { maxAgeMs, maxOutputBytes } = config.retention ?? {};
      for (const amount of [maxAgeMs, maxOutputBytes, config.idempotencyTtlMs])
        assert.ok(amount !== undefined && Number.isSafeInteger(amount) && amount > 0, `the amount ${amount}`);
    }),
};

const joinTokens: Target<string> = {
  name: 'join-tokens',
  corpus: ['', 'cj_', 'cj_bnVsbA'],
  make: (random) => {
    const json = jsonText(random, [{ serverId: 's', certificateSha256: 'a'.repeat(64), secret: 'x' }]);
    const token = `cj_${Buffer.from(json).toString('base64url')}`;
    return random.chance(0.2) ? mutateText(random, token) : token;
  },
  check: (input) => {
    const token = accepted(() => parseJoinToken(input), 'join_token_invalid');
    if (token !== undefined) assert.match(token.content.certificateSha256 ?? '', /^(?:[0-9a-f]{64})?$/);
  },
};

const QUESTION = Buffer.from('12340100000100000000000103777777076578616d706c65036f72670000010001', 'hex');

const nameQuestions: Target<Uint8Array> = {
  name: 'name-questions',
  corpus: [
    QUESTION,
    new Uint8Array(0),
    Buffer.alloc(512, 1),
    Buffer.concat([QUESTION.subarray(0, 12), Buffer.alloc(500, 63)]),
  ],
  make: (random) => mutateBytes(random, QUESTION),
  check: (input) => {
    const question = parseQuestion(input);
    if (question === null) return;
    assert.ok(question.name.length <= 253 && question.bytes.length <= 259);
    const answer = answerTo(question, 'ok', { addresses: Array<number>(8).fill(2 ** 32 - 1), ttlSeconds: 300 });
    assert.ok(answer.length <= 512, `an answer of ${answer.length} bytes`);
    // What is said back is the question that was asked, for whoever reads it the same way.
    const again = parseQuestion(Buffer.concat([QUESTION.subarray(0, 12), question.bytes]));
    assert.deepEqual([again?.name, again?.type, again?.class], [question.name, question.type, question.class]);
  },
};

const NEWS = Buffer.concat([
  Buffer.from('7200000000000000', 'hex'),
  Buffer.from('770006000700000022d8b85d5000', 'hex'),
  Buffer.from('6400040035820000deadbeef', 'hex'),
  Buffer.concat([Buffer.from('6300180000000000', 'hex'), Buffer.alloc(24, 9)]),
]);

/** A gate that was taken over says what it likes. */
const gateNews: Target<Uint8Array> = {
  name: 'gate-news',
  corpus: [NEWS],
  make: (random) => mutateBytes(random, NEWS),
  check: (input) => {
    const read = (pieces: readonly Uint8Array[]) => {
      const decoder = new GateNewsDecoder();
      try {
        return pieces.flatMap((piece) => decoder.push(Buffer.from(piece)));
      } catch (error) {
        return (error as Error).message;
      }
    };
    const whole = read([input]);
    const bytewise = read([...input].map((byte) => Uint8Array.of(byte)));
    assert.deepEqual(
      typeof whole === 'string' ? typeof bytewise : bytewise,
      typeof whole === 'string' ? 'string' : whole,
    );
  },
};
