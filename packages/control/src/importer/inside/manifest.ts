import { createHash } from 'node:crypto';
import { ImportFailure, shown } from './failure.ts';

export interface Descriptor {
  readonly digest: string;
  readonly bytes: number;
}

export interface Manifest {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

/** What a registry answers for a name: a manifest, or an index of manifests for several platforms. */
export type Document =
  { readonly kind: 'manifest'; readonly manifest: Manifest } | { readonly kind: 'index'; readonly digest: string };

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function malformed(what: string): ImportFailure {
  return new ImportFailure('image_refused', `the image's ${what} is not well formed`);
}

/** @throws ImportFailure `image_refused` */
export function descriptor(value: unknown, what: string): Descriptor {
  if (!isObject(value)) throw malformed(what);
  const { digest, size } = value;
  if (typeof digest !== 'string' || typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    throw malformed(what);
  if (!/^sha256:[0-9a-f]{64}$/.test(digest)) {
    throw new ImportFailure('image_refused', `the image names content by ${shown(digest)}; only sha256 is taken`);
  }
  return { digest, bytes: size };
}

export function parseObject(bytes: Buffer, what: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    throw malformed(what);
  }
  if (!isObject(value)) throw malformed(what);
  return value;
}

/**
 * Reads what a registry answered. Of an index the first entry for the platform is taken; entries that are no image (attestations say
 * `unknown/unknown`) match no platform.
 *
 * @throws ImportFailure `image_refused` where there is nothing for the platform, or the document is none of the four known kinds
 */
export function readDocument(bytes: Buffer, platform: { os: string; architecture: string }): Document {
  const document = parseObject(bytes, 'manifest');
  if (document.schemaVersion !== 2) {
    throw new ImportFailure(
      'image_refused',
      'the image has a manifest of the first version; push it again with a newer tool',
    );
  }
  if (Array.isArray(document.manifests)) {
    const found: string[] = [];
    for (const entry of document.manifests as unknown[]) {
      if (!isObject(entry)) throw malformed('index');
      const of = isObject(entry.platform) ? entry.platform : {};
      if (of.os === platform.os && of.architecture === platform.architecture) {
        return { kind: 'index', digest: descriptor(entry, 'index').digest };
      }
      if (typeof of.os === 'string' && of.os !== 'unknown') {
        found.push(`${of.os}/${typeof of.architecture === 'string' ? of.architecture : '?'}`);
      }
    }
    const others = found.length === 0 ? 'no platform at all' : shown([...new Set(found)].join(', '));
    throw new ImportFailure(
      'image_refused',
      `the image is for ${others}, not for ${platform.os}/${platform.architecture}`,
    );
  }
  if (!Array.isArray(document.layers)) throw malformed('manifest');
  return {
    kind: 'manifest',
    manifest: {
      config: descriptor(document.config, 'manifest'),
      layers: (document.layers as unknown[]).map((layer) => descriptor(layer, 'manifest')),
    },
  };
}

/** The part of an image's configuration that says what to run. */
export interface RawConfig {
  readonly entrypoint: string[];
  readonly command: string[];
  readonly environment: string[];
  readonly workingDirectory: string;
  readonly user: string;
  readonly stopSignal: string | null;
  readonly diffIds: string[];
}

/** @throws ImportFailure `image_refused` also for a configuration of another platform */
export function readConfig(bytes: Buffer, platform: { os: string; architecture: string }): RawConfig {
  const document = parseObject(bytes, 'configuration');
  const config = isObject(document.config) ? document.config : {};
  const list = (value: unknown): string[] => {
    if (value === undefined || value === null) return [];
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) throw malformed('configuration');
    if (value.some((item) => item.includes('\0'))) throw malformed('configuration');
    return value;
  };
  const text = (value: unknown): string => {
    if (value === undefined || value === null) return '';
    if (typeof value !== 'string' || value.includes('\0')) throw malformed('configuration');
    return value;
  };
  const os = text(document.os) || platform.os;
  const architecture = text(document.architecture) || platform.architecture;
  if (os !== platform.os || architecture !== platform.architecture) {
    const is = shown(`${os}/${architecture}`);
    throw new ImportFailure('image_refused', `the image is for ${is}, not for ${platform.os}/${platform.architecture}`);
  }
  const rootfs = isObject(document.rootfs) ? document.rootfs : {};
  return {
    entrypoint: list(config.Entrypoint),
    command: list(config.Cmd),
    environment: list(config.Env),
    workingDirectory: text(config.WorkingDir),
    user: text(config.User),
    stopSignal: text(config.StopSignal) || null,
    diffIds: list(rootfs.diff_ids),
  };
}
