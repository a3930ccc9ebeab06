/**
 * The inside of one import: process 1 of a jail that has no route to anywhere, with one request on its standard input. It pulls with
 * skopeo, checks and rewrites the layers, unpacks with umoci, and packs with mkfs.erofs. See `messages.ts` for what it says.
 *
 * In `/work`: `egress` and `registry`, sockets of the control server; `pulled`, what skopeo brought; `layout`, the rewritten
 * layers; `tree`; `rootfs.erofs`. In `/layers`: layers that were pulled before, read-only.
 */
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { ImportFailure } from './failure.ts';
import { forward } from './forward.ts';
import { LayerSet, WrongBytes } from './layers.ts';
import { readConfig } from './manifest.ts';
import type { InsideConfig, InsideGo, InsideMessage, InsideRequest, Phase } from './messages.ts';
import { Tree } from './in-root.ts';
import { checkManifest, readPulledConfig, Registry } from './registry.ts';
import { pack, settleTimes, unpack } from './rootfs.ts';
import { TreeCount } from './tree-count.ts';
import { resolveUser } from './users.ts';

const PROXY_PORTS = [3128, 3129] as const;
const PROGRESS_INTERVAL_MS = 250;
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
  await registry.pull(resolved, '/work/pulled', '/layers', (bytes, layers) =>
    progress('pulling', bytes, totalBytes, layers, totalLayers),
  );
  await registry.close();

  const config = readConfig(await readPulledConfig('/work/pulled'), platform);
  const layout = new LayerSet('/work/layout', limits, new TreeCount(limits.files, limits.depth));
  await layout.open();
  let before = 0;
  for (const [index, layer] of manifest.layers.entries()) {
    const hex = layer.digest.slice('sha256:'.length);
    progress('unpacking', before, totalBytes, index, totalLayers);
    await layout.add(`/work/pulled/blobs/sha256/${hex}`, layer, config.diffIds[index] ?? null, (bytes) =>
      progress('unpacking', before + bytes, totalBytes, index, totalLayers),
    );
    say({ type: 'verified', digest: layer.digest, bytes: layer.bytes });
    before += layer.bytes;
  }
  await layout.close(platform);
  await mkdir('/work/tree', 0o755);
  await unpack('/work/layout', '/work/tree');
  // The largest of what is not needed any more; the control server removes the rest.
  await rm('/work/layout', { recursive: true });

  const tree = new Tree('/work/tree');
  const user = resolveUser(config.user, await tree.readText('/etc/passwd'), await tree.readText('/etc/group'));
  const workingDirectory = `/${config.workingDirectory.replace(/^\/+/, '')}`;
  await tree.ensureDirectory(workingDirectory);
  settleTimes(Buffer.from('/work/tree'));
  progress('packing', totalBytes, totalBytes, totalLayers, totalLayers);
  await pack('/work/tree', '/work/rootfs.erofs');
  const { entrypoint, command, environment, stopSignal } = config;
  return { entrypoint, command, environment, workingDirectory, user, stopSignal };
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
