import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, lstat, mkdir, open, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { CocoreError, type ErrorCode, isErrorCode } from '@cocore/protocol';
import { type Connect, EgressProxy, type Refusal, type Resolve } from './egress/egress-proxy.ts';
import { LoopbackGate } from './egress/loopback-gate.ts';
import type { ImportProgress, ImportRequest, RegistryAuth } from './image.ts';
import type { KeptImage, StoreScope } from './import-store.ts';
import type { InsideMessage, InsideRequest } from './inside/messages.ts';
import { InsideMessageSchema, MAX_LINE_BYTES } from './inside-messages.ts';
import { endJail, type JailIds, type JailProcess, removeTree, startJail } from './jail.ts';
import type { ImportLimits } from './limits.ts';
import type { ImageReference } from './reference.ts';

/** What the registry sends beside the layers: manifests, headers, certificates. */
const EGRESS_ALLOWANCE_BYTES = 64 * 1024 * 1024;

/** Codes that the inside may end with; anything else that it says is a fault of its own. */
const INSIDE_CODES: ReadonlySet<ErrorCode> = new Set([
  'image_unknown',
  'image_digest',
  'image_too_large',
  'image_refused',
  'importer_unavailable',
]);

export interface OneImport {
  readonly request: ImportRequest;
  readonly reference: ImageReference;
  readonly limits: ImportLimits;
  /** Where the import's own directory is made. */
  readonly directory: string;
  readonly scope: StoreScope;
  readonly ids: JailIds;
  readonly authorities: string | null;
  readonly resolve: Resolve | undefined;
  readonly connect: Connect | undefined;
  readonly report: (progress: ImportProgress) => void;
  readonly signal: AbortSignal;
  /** Takes what may go on after the answer: the removal of the import's directory. */
  readonly afterwards: (work: Promise<void>) => void;
}

export interface Imported {
  readonly indexDigest: string;
  readonly manifestDigest: string;
  readonly image: KeptImage;
  /** Whether the image was made by this import, so that its bytes have just been read. */
  readonly isNew: boolean;
  readonly release: () => void;
}

/** A layer in the store is not what its name says; without it the import may succeed. */
export class SpoiledLayer extends Error {
  readonly digest: string;

  constructor(digest: string) {
    super(`the kept layer ${digest} is spoiled`);
    this.name = 'SpoiledLayer';
    this.digest = digest;
  }
}

/** @throws CocoreError of every code of images, SpoiledLayer, or the signal's reason */
export async function importOnce(options: OneImport): Promise<Imported> {
  const { request, reference, limits, scope, signal } = options;
  await using cleanup = new AsyncDisposableStack();
  const work = join(options.directory, randomBytes(6).toString('hex'));
  await mkdir(join(work, 'root'), { recursive: true });
  // The puller passes through it with an id of its own; above it nobody but this server does.
  await chmod(work, 0o711);
  cleanup.defer(() => options.afterwards(removeTree(work)));
  cleanup.defer(scope.pinLayers());

  // By a descriptor, because a socket's name may have no more than 107 bytes.
  const place = await open(work, constants.O_RDONLY | constants.O_DIRECTORY);
  cleanup.defer(() => place.close());
  const socket = (name: string) => `/proc/self/fd/${place.fd}/${name}`;
  const maxBytes = limits.compressedBytes + EGRESS_ALLOWANCE_BYTES;
  const proxy = cleanup.use(new EgressProxy({ maxBytes, resolve: options.resolve, connect: options.connect }));
  await proxy.listen(socket('egress'));
  await chmod(join(work, 'egress'), 0o666);
  let gate: LoopbackGate | null = null;
  if (reference.loopback !== null) {
    gate = cleanup.use(new LoopbackGate(reference.loopback.host, reference.loopback.port, maxBytes));
    await gate.listen(socket('registry'));
    await chmod(join(work, 'registry'), 0o666);
  }

  const child = await startJail({
    work,
    layers: scope.layers,
    ids: options.ids,
    authorities: options.authorities,
    maxFileBytes: limits.unpackedBytes * 2,
    signal,
  });
  cleanup.defer(() => endJail(child));
  const end = () => void endJail(child);
  signal.addEventListener('abort', end, { once: true });
  cleanup.defer(() => signal.removeEventListener('abort', end));

  send(child, {
    reference: reference.full,
    repository: reference.repository,
    registry: reference.registry,
    platform: request.platform,
    credentials: request.auth === null ? null : credentialsFile(reference.registry, request.auth),
    loopback: reference.loopback,
    limits,
  } satisfies InsideRequest);

  let resolved: { indexDigest: string; manifestDigest: string } | null = null;
  let last: InsideMessage | null = null;
  let pulling = true;
  const verified: string[] = [];
  for await (const message of messagesOf(child)) {
    last = message;
    if (message.type === 'progress') {
      pulling = message.phase === 'resolving' || message.phase === 'pulling';
      const { type: _, ...progress } = message;
      options.report(progress);
    } else if (message.type === 'resolved' && resolved === null) {
      const { indexDigest, manifestDigest } = message;
      resolved = { indexDigest, manifestDigest };
      const kept = await scope.image(manifestDigest);
      if (kept !== null) return { ...resolved, ...kept, isNew: false };
      send(child, { go: true });
    } else if (message.type === 'verified' && verified.length < limits.layers) {
      verified.push(message.digest);
    }
  }
  await endJail(child);
  signal.throwIfAborted();

  // The jail is gone, so what it left does not change any more.
  const pulled = join(work, 'pulled', 'blobs', 'sha256');
  for (const digest of new Set(verified)) {
    const path = join(pulled, digest.slice('sha256:'.length));
    if (await scope.hasLayer(digest)) await scope.keepLayer(digest, path);
    else if (await isOwnFile(path)) await scope.keepLayer(digest, path);
  }
  if (last?.type === 'spoiled') {
    if (await scope.hasLayer(last.digest)) throw new SpoiledLayer(last.digest);
    throw new CocoreError('image_digest', `the registry's bytes for ${last.digest} are not what this digest names`);
  }
  if (last?.type === 'failed') throw failureOf(last, pulling ? (proxy.refusal ?? gate?.refusal ?? null) : null);
  const rootfs = join(work, 'rootfs.erofs');
  if (last?.type !== 'done' || resolved === null || !(await isOwnFile(rootfs))) {
    throw new CocoreError('image_refused', 'the image made the importer stop without an answer');
  }
  const { digest, bytes } = await digestOf(rootfs);
  await scope.keepImage(resolved.manifestDigest, rootfs, { digest, bytes, config: last.config });
  const kept = await scope.image(resolved.manifestDigest);
  if (kept === null) throw new Error('the image was removed while it was kept');
  return { ...resolved, ...kept, isNew: true };
}

function send(child: JailProcess, message: unknown): void {
  child.stdin.write(`${JSON.stringify(message)}\n`);
}

function credentialsFile(registry: string, auth: RegistryAuth): string {
  const entry =
    'identityToken' in auth
      ? { auth: Buffer.from('<token>:').toString('base64'), identitytoken: auth.identityToken }
      : { auth: Buffer.from(`${auth.username}:${auth.password}`).toString('base64') };
  return JSON.stringify({ auths: { [registry]: entry } });
}

/** Ends with the inside, or at its first word that is not of the protocol. */
async function* messagesOf(child: JailProcess): AsyncGenerator<InsideMessage> {
  let held = '';
  for await (const chunk of child.stdout.setEncoding('utf8') as AsyncIterable<string>) {
    const lines = (held + chunk).split('\n');
    held = lines.pop()!;
    if (held.length > MAX_LINE_BYTES) return;
    for (const line of lines) {
      let message;
      try {
        message = InsideMessageSchema.safeParse(JSON.parse(line));
      } catch {
        return;
      }
      if (!message.success) return;
      yield message.data;
      if (['done', 'failed', 'spoiled'].includes(message.data.type)) return;
    }
  }
}

function failureOf(failed: { code: string; message: string }, refusal: Refusal | null): CocoreError {
  if (refusal !== null && failed.code !== 'image_too_large') {
    const code = {
      address: 'image_refused',
      plain: 'image_refused',
      unresolved: 'image_unknown',
      bytes: 'image_too_large',
    } as const;
    return new CocoreError(code[refusal.kind], `the image was not pulled: ${refusal.message}`);
  }
  if (isErrorCode(failed.code) && INSIDE_CODES.has(failed.code)) return new CocoreError(failed.code, failed.message);
  return new CocoreError('internal', `the importer failed: ${failed.message}`);
}

/** A regular file with one name, below directories that are no links. */
async function isOwnFile(path: string): Promise<boolean> {
  if ((await realpath(path).catch(() => null)) !== path) return false;
  const found = await lstat(path);
  return found.isFile() && found.nlink === 1;
}

async function digestOf(path: string): Promise<{ digest: string; bytes: number }> {
  await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of file.createReadStream({
    highWaterMark: 1024 * 1024,
    autoClose: false,
  }) as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { digest: `sha256:${hash.digest('hex')}`, bytes };
}
