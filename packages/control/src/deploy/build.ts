import { createHash } from 'node:crypto';
import {
  type BlobRef,
  BUILD_EGRESS_BYTES,
  BUILD_MEMORY_MIB,
  BUILD_TIMEOUT_MS,
  CocoreError,
  DEFAULT_OUTPUT_LIMIT_BYTES,
  type ExecutionRecord,
  type FunctionDeploy,
  type IsolationClass,
  LAYER_NAME,
  MAX_ARTIFACT_ENTRIES,
  MAX_ARTIFACTS_LIMIT_BYTES,
  MAX_LAYER_BYTES,
  MAX_LAYER_ENTRIES,
  type Network,
  NO_NETWORK,
  type Recipe,
} from '@cocore/protocol';
import { readArchive } from '../code/code-archive.ts';
import type { CodeTree } from '../code/code-tree.ts';
import { type CodeLimits } from '../code/code-tree.ts';
import { SpooledContent } from '../code/content.ts';
import { readExecution } from '../http/executions.ts';
import type { HttpParts } from '../http/parts.ts';
import { followExecution, PIECE_BYTES as FOLLOWED_BYTES } from '../output/follower.ts';
import { shownAttempt } from '../shown-attempt.ts';
import { buildProcessOf } from '../runtimes/recipe.ts';
import type { Root } from './from-code.ts';
import type { DeployListener } from './job.ts';

export const LAYER_LIMITS: CodeLimits = { bytes: MAX_LAYER_BYTES, entries: MAX_LAYER_ENTRIES };
const ARTIFACTS_LIMITS: CodeLimits = { bytes: MAX_ARTIFACTS_LIMIT_BYTES, entries: MAX_ARTIFACT_ENTRIES };
const PIECE_BYTES = 64 * 1024;
/** How often it is looked why a build waits. */
const LOOK_MS = 2_000;

/** Code that is built before it runs. */
export interface BuildRequest {
  readonly projectId: string;
  readonly body: FunctionDeploy;
  readonly recipe: Recipe;
  readonly build: NonNullable<Recipe['build']>;
  /** What of the code the build is shown. */
  readonly inputs: CodeTree;
  readonly entry: string;
  readonly root: Root;
}

/**
 * What the build of this code makes: of an earlier one where all that went into it is the same, else of one that runs now, in a sandbox, as an
 * execution of the project.
 *
 * @param scope releases what the layer is kept in meanwhile
 * @throws CocoreError `build_failed`
 */
export async function buildLayer(
  parts: HttpParts,
  request: BuildRequest,
  scope: AsyncDisposableStack,
  listener: DeployListener,
): Promise<CodeTree> {
  const { store, blobs, limits, temporaryDirectory } = parts;
  const { projectId, inputs } = request;
  const code = await parts.imager.make(inputs, async (blob) => store.addBlob(projectId, blob, limits));
  const key = keyOf(request, code);
  const known = await store.useLayer(projectId, key);
  const layer = known ?? (await runBuild(parts, request, code, listener));
  const { stream } = await blobs.read(layer.digest);
  const spooled = scope.use(await SpooledContent.of(stream, temporaryDirectory));
  const tree = await readArchive(spooled.content, LAYER_LIMITS).catch((cause: unknown) => {
    if (!(cause instanceof CocoreError)) throw cause;
    throw new CocoreError('build_failed', `what the build made cannot be taken: ${cause.message}`, { cause });
  });
  if (known === null) await store.keepLayer(projectId, key, layer, limits);
  return tree;
}

/** Equal only where the build would see the same. */
function keyOf({ recipe, build, entry, root }: BuildRequest, code: BlobRef): string {
  const { command, inputs } = build;
  const parts = [
    command,
    recipe.env,
    root.surroundings,
    root.image.digest,
    code.digest,
    inputs === undefined ? entry : null,
  ];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

async function runBuild(
  parts: HttpParts,
  request: BuildRequest,
  code: BlobRef,
  listener: DeployListener,
): Promise<BlobRef> {
  const { store, dispatcher, limits } = parts;
  const { projectId, body, recipe, build, entry, root } = request;
  const isolation = body.isolation ?? parts.defaultIsolation;
  const version = {
    projectId,
    name: body.name,
    runtime: recipe.name,
    source: { kind: 'archive', entry },
    handler: null,
    process: buildProcessOf(recipe, build.command, entry, root.surroundings),
    code,
    image: root.image,
    memoryMiB: Math.max(body.memoryMiB, BUILD_MEMORY_MIB),
    cpus: body.cpus,
    timeoutMs: BUILD_TIMEOUT_MS,
    outputLimitBytes: DEFAULT_OUTPUT_LIMIT_BYTES,
    env: {},
    isolation,
    network: networkOf(parts, request, isolation),
    idempotent: true,
  } as const;
  const { executionId, queued } = await store.createBuild(version, limits);
  parts.metrics.executionsCreated.inc();
  dispatcher.enqueue(queued!);
  let end: ExecutionRecord | null = null;
  try {
    end = await watch(parts, projectId, executionId, listener);
  } finally {
    if (end === null) await dispatcher.cancellations.cancel(projectId, executionId);
  }
  return keepArchive(parts, projectId, end);
}

/** The registries of the recipe, where they are wanted and some worker gives a network; what is brought along is built without. */
function networkOf({ dispatcher }: HttpParts, { build, inputs }: BuildRequest, isolation: IsolationClass): Network {
  const wanted = build.network;
  if (wanted === undefined || wanted.unless.some((path) => inputs.nodes.has(path))) return NO_NETWORK;
  if (!dispatcher.elsewhere.isGiven({ isolation, egress: true })) return NO_NETWORK;
  return { mode: 'egress', allow: wanted.allow, maxBytes: BUILD_EGRESS_BYTES };
}

/** Passes on what a build prints and why it waits, to its end. @throws when nobody waits any more */
async function watch(
  parts: HttpParts,
  projectId: string,
  executionId: string,
  listener: DeployListener,
): Promise<ExecutionRecord> {
  const { signal } = listener;
  const read = () => readExecution(parts, projectId, executionId);
  const tell = ({ waiting }: ExecutionRecord) =>
    listener.progress({ step: 'building', ...(waiting === null ? {} : { waiting: waiting.message }) });
  for await (const news of followExecution({
    ...parts,
    projectId,
    executionId,
    read,
    from: null,
    pieceBytes: FOLLOWED_BYTES.text,
    idleMs: LOOK_MS,
    signal,
  })) {
    switch (news.kind) {
      case 'output':
        await listener.output({ stream: news.stream, base64: Buffer.from(news.bytes).toString('base64') });
        break;
      case 'execution':
        tell(news.record);
        break;
      case 'idle':
        tell(await read());
        break;
      case 'restart':
        // Its worker was lost: what it prints comes once more.
        break;
      case 'end':
        return news.record;
    }
  }
  throw signal.reason;
}

/** The archive among a build's artifacts, as a blob of the project. @throws CocoreError `build_failed` */
async function keepArchive(parts: HttpParts, projectId: string, record: ExecutionRecord): Promise<BlobRef> {
  const { state, reason, exitCode, artifacts, message } = record;
  const details = { executionId: record.id };
  if (state !== 'success') {
    const how = exitCode === null ? `ended as ${state} (${message ?? reason})` : `exited with ${exitCode}`;
    throw new CocoreError('build_failed', `the build ${how}; it is ${record.id}`, { details });
  }
  const attempt = { projectId, attemptId: shownAttempt(record) };
  const bytes = parts.output.read(attempt, 'artifacts', 0, artifacts?.bytes ?? 0);
  await using spooled = await SpooledContent.of(bytes, parts.temporaryDirectory);
  const node =
    artifacts === null ? undefined : (await readArchive(spooled.content, ARTIFACTS_LIMITS)).nodes.get(LAYER_NAME);
  if (node?.kind !== 'file') {
    throw new CocoreError('build_failed', `the build left no $COCORE_OUT/${LAYER_NAME}; it is ${record.id}`, {
      details,
    });
  }
  return await parts.blobs.put(node.content.pieces(PIECE_BYTES), MAX_ARTIFACTS_LIMIT_BYTES, async (blob) =>
    parts.store.addBlob(projectId, blob, parts.limits),
  );
}
