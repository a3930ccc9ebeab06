import { type BlobRef, CocoreError, type RegistryAuth } from '@cocore/protocol';
import type { HttpParts } from '../http/parts.ts';
import type { Surroundings } from '../runtimes/recipe.ts';
import type { ImageConfig } from './from-image.ts';
import type { DeployListener } from './job.ts';

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** An image that the project's functions may run in. */
export interface ImportedRoot {
  readonly image: BlobRef;
  /** Of the manifest for the workers' platform. */
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  readonly surroundings: Surroundings;
}

/** Imports an image and keeps its root file system. @throws CocoreError */
export async function importRoot(
  { images, store, blobs, limits }: HttpParts,
  projectId: string,
  reference: string,
  auth: RegistryAuth | undefined,
  listener: DeployListener,
): Promise<ImportedRoot> {
  if (images === null) throw new CocoreError('importer_unavailable', 'this server imports no images');
  const request = { reference, auth: auth ?? null, project: projectId };
  await using imported = await images.import(request, (progress) => listener.progress(progress), listener.signal);
  const { config, manifestDigest, rootfs } = imported;
  // What was kept for longer is read again: the disk may have damaged it.
  const known = rootfs.isNew ? { digest: rootfs.digest, bytes: rootfs.bytes } : undefined;
  return {
    image: await blobs.adopt(rootfs.path, async (blob) => store.addBlob(projectId, blob, limits), known),
    manifestDigest,
    config,
    surroundings: surroundingsOf(config),
  };
}

export function surroundingsOf({ environment, workingDirectory, user }: ImageConfig): Surroundings {
  const { uid, gid, additionalGids, home } = user;
  return {
    env: { PATH: DEFAULT_PATH, HOME: home, ...variables(environment) },
    cwd: workingDirectory,
    user: { uid, gid, additionalGids },
  };
}

/** By name. An entry without `=` gives nothing. */
function variables(list: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    list.flatMap((entry) => {
      const at = entry.indexOf('=');
      return at < 1 ? [] : [[entry.slice(0, at), entry.slice(at + 1)]];
    }),
  );
}
