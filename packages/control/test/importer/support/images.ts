import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';

export interface Blob {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly bytes: Buffer;
}

export function blob(mediaType: string, bytes: Buffer): Blob {
  return { mediaType, digest: digestOf(bytes), size: bytes.length, bytes };
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

export interface Entry {
  readonly name: string;
  /** As in the header: `0` file, `1` hard link, `2` symbolic link, `3` character device, `5` directory, `6` fifo. */
  readonly type?: string;
  readonly content?: string | Buffer;
  readonly link?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly pax?: Readonly<Record<string, string>>;
}

/** A tar archive, written by hand so that a test can write what no tool would. */
export function tar(entries: readonly Entry[]): Buffer {
  return Buffer.concat([...entries.flatMap(entryBlocks), Buffer.alloc(1024)]);
}

function entryBlocks(entry: Entry): Buffer[] {
  const content = Buffer.from(entry.content ?? '');
  const blocks: Buffer[] = [];
  if (entry.pax !== undefined) {
    const body = Object.entries(entry.pax)
      .map(([key, value]) => {
        let length = 0;
        const line = () => `${length} ${key}=${value}\n`;
        while (Buffer.byteLength(line()) !== length) length = Buffer.byteLength(line());
        return line();
      })
      .join('');
    blocks.push(...entryBlocks({ name: 'pax', type: 'x', content: body }));
  }
  const header = Buffer.alloc(512);
  const octal = (value: number, at: number, width: number) =>
    header.write(value.toString(8).padStart(width - 1, '0'), at);
  header.write(entry.name, 0, 100);
  octal(entry.mode ?? (entry.type === '5' ? 0o755 : 0o644), 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  octal(content.length, 124, 12);
  octal(entry.mtime ?? 1_700_000_000, 136, 12);
  header.write('        ', 148);
  header.write(entry.type ?? '0', 156);
  header.write(entry.link ?? '', 157, 100);
  header.write('ustar\x0000', 257, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return [...blocks, header, content, Buffer.alloc((512 - (content.length % 512)) % 512)];
}

export interface ImageParts {
  /** Uncompressed archives, the lowest first. */
  readonly layers: readonly Buffer[];
  readonly config?: Readonly<Record<string, unknown>>;
  readonly docker?: boolean;
  readonly compress?: (archive: Buffer) => Buffer;
  /** Of the layers, when not what `compress` makes of an archive. */
  readonly layerType?: string;
  readonly architecture?: string;
}

export interface Image {
  readonly manifest: Blob;
  readonly blobs: readonly Blob[];
}

export function image(parts: ImageParts): Image {
  const compress = parts.compress ?? ((archive: Buffer) => gzipSync(archive, { level: 1 }));
  const kind = parts.docker === true ? 'docker' : 'oci';
  const types = {
    docker: {
      config: 'application/vnd.docker.container.image.v1+json',
      layer: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
      manifest: 'application/vnd.docker.distribution.manifest.v2+json',
    },
    oci: {
      config: 'application/vnd.oci.image.config.v1+json',
      layer: 'application/vnd.oci.image.layer.v1.tar+gzip',
      manifest: 'application/vnd.oci.image.manifest.v1+json',
    },
  }[kind];
  const layers = parts.layers.map((archive) => blob(parts.layerType ?? types.layer, compress(archive)));
  const config = blob(
    types.config,
    Buffer.from(
      JSON.stringify({
        os: 'linux',
        architecture: parts.architecture ?? 'amd64',
        config: parts.config ?? {},
        rootfs: { type: 'layers', diff_ids: parts.layers.map(digestOf) },
      }),
    ),
  );
  return { manifest: manifestOf(types.manifest, config, layers), blobs: [config, ...layers] };
}

export function manifestOf(mediaType: string, config: Blob, layers: readonly Blob[]): Blob {
  const named = ({ mediaType: type, digest, size }: Blob) => ({ mediaType: type, digest, size });
  const document = { schemaVersion: 2, mediaType, config: named(config), layers: layers.map(named) };
  return blob(mediaType, Buffer.from(JSON.stringify(document)));
}

/** Puts an image into a registry by its HTTP interface. @returns the reference */
export async function push(
  host: string,
  name: string,
  { manifest, blobs }: Image,
  options: { tag?: string; authorization?: string } = {},
): Promise<string> {
  const headers: Record<string, string> =
    options.authorization === undefined ? {} : { authorization: options.authorization };
  for (const { digest, bytes } of blobs) {
    const begun = await fetch(`http://${host}/v2/${name}/blobs/uploads/`, { method: 'POST', headers });
    const location = new URL(begun.headers.get('location')!, `http://${host}`);
    location.searchParams.set('digest', digest);
    const put = await fetch(location, {
      method: 'PUT',
      headers: { ...headers, 'content-type': 'application/octet-stream' },
      body: new Uint8Array(bytes),
    });
    if (put.status !== 201) throw new Error(`the registry answers ${put.status} to a blob: ${await put.text()}`);
  }
  const tag = options.tag ?? 'latest';
  const put = await fetch(`http://${host}/v2/${name}/manifests/${tag}`, {
    method: 'PUT',
    headers: { ...headers, 'content-type': manifest.mediaType },
    body: new Uint8Array(manifest.bytes),
  });
  if (put.status !== 201) throw new Error(`the registry answers ${put.status} to a manifest: ${await put.text()}`);
  return `${host}/${name}${tag.startsWith('sha256:') ? '@' : ':'}${tag}`;
}
