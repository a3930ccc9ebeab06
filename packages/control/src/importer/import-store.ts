import { createHash } from 'node:crypto';
import { chmod, chown, lstat, mkdir, readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { ImageConfig } from './image.ts';
import { ImageConfigSchema } from './inside-messages.ts';

/** Changed when the same image would become another file system. */
const FORMAT = 2;

export interface KeptImage {
  readonly path: string;
  readonly digest: string;
  readonly bytes: number;
  readonly config: ImageConfig;
}

const NoteSchema = z.strictObject({ digest: z.string(), bytes: z.number(), config: ImageConfigSchema });

interface Kept {
  readonly path: string;
  readonly bytes: number;
  readonly usedAt: number;
}

/**
 * Layers and finished file systems of earlier imports, apart for each scope, under `SCOPE/layers/HEX` and `SCOPE/images/HEX.erofs`. Of all
 * scopes together the least recently used go when they outgrow the budget; what is in use stays.
 */
export class ImportStore {
  readonly #directory: string;
  readonly #maxBytes: number;
  readonly #pins = new Map<string, number>();

  constructor(directory: string, maxBytes: number) {
    this.#directory = directory;
    this.#maxBytes = maxBytes;
  }

  /** @param identity everything that two requests must have in common to be given each other's layers */
  async scope(identity: readonly string[]): Promise<StoreScope> {
    const name = createHash('sha256').update(JSON.stringify(identity)).digest('hex').slice(0, 32);
    const scope = new StoreScope(this, join(this.#directory, name));
    await scope.open();
    return scope;
  }

  /** Keeps a file, or all below a directory, until the returned function is called. */
  pin(path: string): () => void {
    this.#pins.set(path, (this.#pins.get(path) ?? 0) + 1);
    let released = false;
    return () => {
      if (released) return;
      released = true;
      const left = this.#pins.get(path)! - 1;
      if (left === 0) this.#pins.delete(path);
      else this.#pins.set(path, left);
    };
  }

  /** Removes the least recently used until the rest is within the budget. */
  async trim(): Promise<void> {
    const kept: Kept[] = [];
    for (const scope of await readdir(this.#directory).catch(() => [])) {
      for (const kind of ['layers', 'images']) {
        const directory = join(this.#directory, scope, kind);
        for (const name of await readdir(directory).catch(() => [])) {
          if (name.endsWith('.json')) continue;
          const found = await lstat(join(directory, name)).catch(() => null);
          if (found !== null) kept.push({ path: join(directory, name), bytes: found.size, usedAt: found.mtimeMs });
        }
      }
    }
    let bytes = kept.reduce((sum, file) => sum + file.bytes, 0);
    for (const file of kept.sort((one, other) => one.usedAt - other.usedAt)) {
      if (bytes <= this.#maxBytes) return;
      if ([...this.#pins.keys()].some((pin) => file.path === pin || file.path.startsWith(`${pin}/`))) continue;
      await rm(file.path, { force: true });
      await rm(noteOf(file.path), { force: true });
      bytes -= file.bytes;
    }
  }
}

function noteOf(path: string): string {
  return path.replace(/\.erofs$/, '.json');
}

/** What one scope has. */
export class StoreScope {
  readonly #store: ImportStore;
  readonly #directory: string;

  constructor(store: ImportStore, directory: string) {
    this.#store = store;
    this.#directory = directory;
  }

  /** Files named by the hex of their digest. */
  get layers(): string {
    return join(this.#directory, 'layers');
  }

  async open(): Promise<void> {
    for (const directory of [this.#directory, this.layers, this.#images]) {
      await mkdir(directory, { recursive: true });
      // The inside looks at the layers with an id that owns nothing here.
      await chmod(directory, 0o755);
    }
  }

  pinLayers(): () => void {
    return this.#store.pin(this.layers);
  }

  async hasLayer(digest: string): Promise<boolean> {
    return (await lstat(this.#layer(digest)).catch(() => null)) !== null;
  }

  /** Takes over a file that a jail has left, or notes that the layer was used again. */
  async keepLayer(digest: string, path: string): Promise<void> {
    const layer = this.#layer(digest);
    const now = new Date();
    if (await this.hasLayer(digest)) await utimes(layer, now, now);
    else await takeOver(path, layer);
  }

  async dropLayer(digest: string): Promise<void> {
    await rm(this.#layer(digest), { force: true });
  }

  /** @returns null where there is none; else pinned, until `release` is called */
  async image(manifestDigest: string): Promise<{ image: KeptImage; release: () => void } | null> {
    const path = this.#image(manifestDigest);
    const release = this.#store.pin(path);
    try {
      const note = NoteSchema.parse(JSON.parse(await readFile(noteOf(path), 'utf8')));
      const { size } = await lstat(path);
      if (size !== note.bytes) throw new Error('another size');
      const now = new Date();
      await utimes(path, now, now);
      return { image: { path, ...note }, release };
    } catch {
      release();
      return null;
    }
  }

  async keepImage(manifestDigest: string, path: string, note: Omit<KeptImage, 'path'>): Promise<void> {
    const image = this.#image(manifestDigest);
    await takeOver(path, image);
    await writeFile(noteOf(image), JSON.stringify(note));
  }

  get #images(): string {
    return join(this.#directory, 'images');
  }

  #layer(digest: string): string {
    return join(this.layers, digest.slice('sha256:'.length));
  }

  #image(manifestDigest: string): string {
    return join(this.#images, `${FORMAT}-${manifestDigest.slice('sha256:'.length)}.erofs`);
  }
}

async function takeOver(from: string, to: string): Promise<void> {
  const { nlink } = await lstat(from);
  if (nlink !== 1) throw new Error(`${from} has another name`);
  if (process.getuid!() === 0) await chown(from, 0, 0);
  await chmod(from, 0o444);
  const now = new Date();
  await utimes(from, now, now);
  await rename(from, to);
}
