import { mkdir, chown, lchown, lstat, readdir, readFile, stat, symlink, writeFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ImportFailure, shown } from './failure.ts';
import {
  type Descriptor,
  descriptor,
  type Document,
  type Manifest,
  parseObject,
  readDocument,
  sha256,
} from './manifest.ts';
import type { InsideLimits, InsideRequest } from './messages.ts';
import { run } from './run.ts';

const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
const MAX_CONFIG_BYTES = 8 * 1024 * 1024;
/** The id of the puller: it owns nothing but what it pulls. */
const PULLER = 1;
const CREDENTIALS = '/tmp/credentials.json';
const WATCH_INTERVAL_MS = 250;

export interface Resolved {
  readonly indexDigest: string;
  readonly manifestDigest: string;
  readonly manifest: Manifest;
}

/** The conversation with one registry, through skopeo. */
export class Registry {
  readonly #request: InsideRequest;
  readonly #proxyPort: number;
  readonly #authorities: boolean;

  /** @param authorities whether there is a file of further certificate authorities */
  constructor(request: InsideRequest, proxyPort: number, authorities: boolean) {
    this.#request = request;
    this.#proxyPort = proxyPort;
    this.#authorities = authorities;
  }

  async open(): Promise<void> {
    if (this.#request.credentials === null) return;
    await writeFile(CREDENTIALS, this.#request.credentials, { mode: 0o600 });
    await chown(CREDENTIALS, PULLER, PULLER);
  }

  /** Nothing is asked of the registry any more; the credentials go. */
  async close(): Promise<void> {
    await rm(CREDENTIALS, { force: true });
  }

  /** From the name to the digest for the platform. */
  async resolve(): Promise<Resolved> {
    const first = await this.#document(this.#request.reference);
    const indexDigest = first.digest;
    let { document, digest } = first;
    if (document.kind === 'index') {
      ({ document, digest } = await this.#document(`${this.#request.repository}@${document.digest}`));
      if (document.kind === 'index')
        throw new ImportFailure('image_refused', "the image's index leads to another index");
    }
    return { indexDigest, manifestDigest: digest, manifest: document.manifest };
  }

  /**
   * Brings the manifest's configuration and layers to `directory`, named by their digests.
   *
   * @param store a directory of layers that need not be pulled
   * @param progress called with the bytes and layers that are there
   */
  async pull(
    resolved: Resolved,
    directory: string,
    store: string,
    progress: (bytes: number, layers: number) => void,
  ): Promise<void> {
    const blobs = join(directory, 'blobs', 'sha256');
    await mkdir(blobs, { recursive: true });
    const { layers } = resolved.manifest;
    for (const layer of layers) {
      const hex = layer.digest.slice('sha256:'.length);
      const kept = await lstat(join(store, hex)).catch(() => null);
      if (kept?.size === layer.bytes) await symlink(join(store, hex), join(blobs, hex)).catch(() => undefined);
    }
    for (const path of [directory, join(directory, 'blobs'), blobs]) await chown(path, PULLER, PULLER);
    const watch = setInterval(() => {
      void pulledBytes(directory, blobs, layers).then(({ bytes, whole }) => progress(bytes, whole));
    }, WATCH_INTERVAL_MS);
    try {
      const { ok, stderr } = await this.#skopeo([
        'copy',
        ...this.#options('src-'),
        '--quiet',
        '--dest-oci-accept-uncompressed-layers',
        `docker://${this.#request.repository}@${resolved.manifestDigest}`,
        `oci:${directory}:image`,
      ]);
      if (!ok) throw failureOf(stderr);
    } finally {
      clearInterval(watch);
    }
    // An ordinary user's control server takes over only what has its own id, and from directories that have it.
    const pulled = await readdir(blobs);
    for (const path of [directory, join(directory, 'blobs'), blobs, ...pulled.map((name) => join(blobs, name))]) {
      await lchown(path, 0, 0);
    }
  }

  async #document(reference: string): Promise<{ document: Document; digest: string }> {
    const { ok, stdout, stderr } = await this.#skopeo([
      'inspect',
      ...this.#options(''),
      '--raw',
      `docker://${reference}`,
    ]);
    if (!ok) throw failureOf(stderr);
    const digest = sha256(stdout);
    const at = reference.indexOf('@');
    if (at !== -1 && reference.slice(at + 1) !== digest) {
      throw new ImportFailure('image_digest', `the registry's manifest is not ${reference.slice(at + 1)}`);
    }
    return { document: readDocument(stdout, this.#request.platform), digest };
  }

  #options(prefix: string): string[] {
    const { credentials, loopback } = this.#request;
    return [
      ...(credentials === null ? [`--${prefix === '' ? '' : prefix}no-creds`] : [`--${prefix}authfile`, CREDENTIALS]),
      ...(loopback === null ? [] : [`--${prefix}tls-verify=false`]),
    ];
  }

  #skopeo(args: string[]) {
    const proxy = `http://127.0.0.1:${this.#proxyPort}`;
    const { os, architecture } = this.#request.platform;
    return run(
      'skopeo',
      ['--insecure-policy', '--tmpdir', '/tmp', '--override-os', os, '--override-arch', architecture, ...args],
      {
        uid: PULLER,
        maxOutputBytes: MAX_MANIFEST_BYTES,
        env: {
          HTTPS_PROXY: proxy,
          HTTP_PROXY: proxy,
          ...(this.#authorities ? { SSL_CERT_FILE: '/etc/ssl/authorities.pem' } : {}),
        },
      },
    );
  }
}

/** @throws ImportFailure `image_too_large` by what the manifest itself says */
export function checkManifest({ layers }: Manifest, limits: InsideLimits): void {
  if (layers.length > limits.layers) {
    throw new ImportFailure('image_too_large', `the image has ${layers.length} layers; the limit is ${limits.layers}`);
  }
  const bytes = layers.reduce((sum, layer) => sum + layer.bytes, 0);
  if (bytes > limits.compressedBytes) {
    throw new ImportFailure(
      'image_too_large',
      `the image's layers have ${bytes} bytes; the limit is ${limits.compressedBytes}`,
    );
  }
}

/**
 * The configuration in the layout that skopeo made. It has checked the registry's; of a Docker image it has written it anew in OCI's form, so
 * the manifest's digest is not its name.
 */
export async function readPulledConfig(directory: string): Promise<Buffer> {
  const read = async (path: string) => {
    const { size } = await stat(path);
    if (size > MAX_CONFIG_BYTES)
      throw new ImportFailure('image_too_large', `the image's configuration has ${size} bytes`);
    return readFile(path);
  };
  const blobOf = ({ digest }: Descriptor) => join(directory, 'blobs', 'sha256', digest.slice('sha256:'.length));
  const index = parseObject(await read(join(directory, 'index.json')), 'index');
  const manifest = descriptor((index.manifests as unknown[])[0], 'index');
  return read(blobOf(descriptor(parseObject(await read(blobOf(manifest)), 'manifest').config, 'manifest')));
}

async function pulledBytes(directory: string, blobs: string, layers: readonly Descriptor[]) {
  const there = new Set(await readdir(blobs).catch(() => []));
  const whole = layers.filter(({ digest }) => there.has(digest.slice('sha256:'.length)));
  let bytes = whole.reduce((sum, layer) => sum + layer.bytes, 0);
  for (const name of await readdir(directory).catch(() => [])) {
    if (!name.startsWith('oci-put-blob')) continue;
    bytes += (await lstat(join(directory, name)).catch(() => null))?.size ?? 0;
  }
  return { bytes, whole: whole.length };
}

/** What skopeo says, as one of our codes. The egress proxy knows better where it refused or could not resolve. */
function failureOf(stderr: string): ImportFailure {
  const last = stderr.trim().split('\n').at(-1) ?? '';
  const message = (/msg="(.*)"$/.exec(last)?.[1] ?? last).replaceAll('\\"', '"');
  const why = shown(message, 400);
  if (/digest did not match|blob size mismatch|size mismatch|unexpected EOF|does not match/i.test(message)) {
    return new ImportFailure('image_digest', `the registry's bytes are not what the manifest names: ${why}`);
  }
  if (
    /unauthorized|authentication required|invalid username\/password|denied: |access to the resource is denied|status code 40[13]|\b40[13] \(/i.test(
      message,
    )
  ) {
    return new ImportFailure('image_unknown', `the registry wants other credentials for this image: ${why}`);
  }
  if (/manifest unknown|name unknown|not found|\b404\b|blob unknown/i.test(message)) {
    return new ImportFailure('image_unknown', `the registry has no such image: ${why}`);
  }
  if (
    /dial tcp|connection refused|no such host|proxyconnect|Bad Gateway|i\/o timeout|EOF|connection reset/i.test(message)
  ) {
    return new ImportFailure('image_unknown', `the registry does not answer: ${why}`);
  }
  return new ImportFailure('image_refused', `the image cannot be pulled: ${why}`);
}
