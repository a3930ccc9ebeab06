/**
 * The inside of one import: process 1 of a jail that has no route to anywhere, with one request on its standard input. It pulls with
 * skopeo, and makes a file system of the layers as they come. See `messages.ts` for what it says.
 *
 * In `/work`: `egress` and `registry`, sockets of the control server; `pulled`, what skopeo brought; `rootfs.erofs`, and `tails`, the
 * ends of files until they have their places in it. In `/layers`: layers that were pulled before, read-only.
 */
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { Contents } from './contents.ts';
import { ImportFailure } from './failure.ts';
import { forward } from './forward.ts';
import { Layers, WrongBytes } from './layers.ts';
import { type Descriptor, readConfig } from './manifest.ts';
import type { InsideConfig, InsideGo, InsideMessage, InsideRequest, Phase } from './messages.ts';
import { checkManifest, readPulledConfig, Registry } from './registry.ts';
import { writeRootfs } from './rootfs.ts';
import { ImageTree } from './tree.ts';
import { resolveUser } from './users.ts';

const PROXY_PORTS = [3128, 3129] as const;
const PROGRESS_INTERVAL_MS = 250;
const APPEAR_INTERVAL_MS = 10;
const MAX_ACCOUNTS_BYTES = 1024 * 1024;
const MAX_CONFIG_TEXT_BYTES = 1024 * 1024;

const say = (message: InsideMessage) => process.stdout.write(`${JSON.stringify(message)}\n`);

let saidAt = 0;
let saidPhase: Phase | null = null;

/** A few times a second, and each new phase at once. */
function progress(phase: Phase, bytes: number, totalBytes: number, layers: number, totalLayers: number): void {
  const now = performance.now();
  if (phase === saidPhase && now - saidAt < PROGRESS_INTERVAL_MS) return;
  saidAt = now;
  saidPhase = phase;
  say({ type: 'progress', phase, bytes, totalBytes, layers, totalLayers });
}

async function importImage(request: InsideRequest, answer: () => Promise<InsideGo>): Promise<InsideConfig | null> {
  const { limits, loopback, platform } = request;
  const proxyPort = PROXY_PORTS.find((port) => port !== loopback?.port)!;
  await forward('127.0.0.1', proxyPort, '/work/egress');
  if (loopback !== null) await forward(loopback.host, loopback.port, '/work/registry');

  const registry = new Registry(request, proxyPort, existsSync('/etc/ssl/authorities.pem'));
  await registry.open();
  progress('resolving', 0, 0, 0, 0);
  const resolved = await registry.resolve();
  const { manifest } = resolved;
  checkManifest(manifest, limits);
  say({ type: 'resolved', indexDigest: resolved.indexDigest, manifestDigest: resolved.manifestDigest });
  if (!(await answer()).go) return null;

  const totalBytes = manifest.layers.reduce((sum, layer) => sum + layer.bytes, 0);
  const totalLayers = manifest.layers.length;
  progress('pulling', 0, totalBytes, 0, totalLayers);
  let isPulling = true;
  const pulling = registry
    .pull(resolved, '/work/pulled', '/layers', (bytes, layers) =>
      progress('pulling', bytes, totalBytes, layers, totalLayers),
    )
    .finally(() => (isPulling = false));
  // Its failure is seen by whoever waits for a layer, or at its end.
  pulling.catch(() => undefined);

  const tree = new ImageTree(limits.files, limits.depth);
  await using contents = await Contents.open('/work/rootfs.erofs', '/work/tails');
  const layers = new Layers(tree, contents, limits);
  let before = 0;
  for (const [index, layer] of manifest.layers.entries()) {
    const path = `/work/pulled/blobs/sha256/${layer.digest.slice('sha256:'.length)}`;
    await appears(path, pulling);
    const unpacking = (bytes: number) => {
      // The phases come in their order.
      if (!isPulling) progress('unpacking', before + bytes, totalBytes, index, totalLayers);
    };
    unpacking(0);
    await layers.add(path, layer, unpacking);
    say({ type: 'verified', digest: layer.digest, bytes: layer.bytes });
    before += layer.bytes;
  }
  await pulling;
  await registry.close();
  const config = readConfig(await readPulledConfig('/work/pulled'), platform);
  checkDiffIds(manifest.layers, layers.diffIds, config.diffIds);

  progress('unpacking', totalBytes, totalBytes, totalLayers, totalLayers);
  const readText = async (path: string) => {
    const file = tree.file(path);
    return file === null ? null : (await contents.read(file, MAX_ACCOUNTS_BYTES)).toString('utf8');
  };
  const user = resolveUser(config.user, await readText('/etc/passwd'), await readText('/etc/group'));
  const workingDirectory = `/${config.workingDirectory.replace(/^\/+/, '')}`;
  tree.ensureDirectory(Buffer.from(workingDirectory).toString('latin1'));
  progress('packing', totalBytes, totalBytes, totalLayers, totalLayers);
  await writeRootfs(tree.root, contents);
  const { entrypoint, command, environment, stopSignal } = config;
  return { entrypoint, command, environment, workingDirectory, user, stopSignal };
}

/** Waits for a file that the pull makes. @throws as the pull */
async function appears(path: string, pulling: Promise<void>): Promise<void> {
  const pulled = pulling.then(() => true);
  pulled.catch(() => undefined);
  while (!existsSync(path)) {
    if (await Promise.race([pulled, sleep(APPEAR_INTERVAL_MS, false)])) return;
  }
}

/** @param claimed of the configuration, which may have none */
function checkDiffIds(layers: readonly Descriptor[], found: readonly string[], claimed: readonly string[]): void {
  for (const [index, layer] of layers.entries()) {
    if (claimed[index] === undefined || claimed[index] === found[index]) continue;
    throw new ImportFailure(
      'image_digest',
      `the layer ${layer.digest} unpacks to other bytes than the configuration says`,
    );
  }
}

const lines = createInterface({ input: process.stdin, crlfDelay: Infinity })[Symbol.asyncIterator]();

/** The control server's next line; when there is none it is gone, and so is this. */
async function nextLine<T>(): Promise<T> {
  const { value, done } = await lines.next();
  if (done === true) process.exit(0);
  return JSON.parse(value) as T;
}

try {
  const request = await nextLine<InsideRequest>();
  let go: (answer: InsideGo) => void = () => undefined;
  const answered = new Promise<InsideGo>((resolve) => (go = resolve));
  void nextLine<InsideGo>().then(async (answer) => {
    go(answer);
    await nextLine();
  });
  const config = await importImage(request, () => answered);
  if (config !== null) {
    if (JSON.stringify(config).length > MAX_CONFIG_TEXT_BYTES) {
      throw new ImportFailure('image_too_large', "the image's environment and commands have more than 1 MiB");
    }
    say({ type: 'done', config });
  }
} catch (error) {
  if (error instanceof WrongBytes) say({ type: 'spoiled', digest: error.digest });
  else if (error instanceof ImportFailure) say({ type: 'failed', code: error.code, message: error.message });
  else {
    // Of this host's making: no room, a program that is missing.
    const { code, message } = error as NodeJS.ErrnoException;
    const lacking = code === 'ENOENT' || code === 'ENOSPC' || code === 'EDQUOT';
    say({ type: 'failed', code: lacking ? 'importer_unavailable' : 'internal', message });
  }
}
process.stdout.end(() => process.exit(0));
