import {
  type BlobRef,
  CocoreError,
  type ContainerUser,
  type DeployProgress,
  type FunctionDeploy,
  type RegistryAuth,
} from '@cocore/protocol';
import type { HttpParts } from '../http/parts.ts';
import type { FunctionProcess } from '../store/store.ts';
import type { DeployListener, MadeVersion } from './job.ts';

/** What an image says of the process that it wants to be. */
export interface ImageConfig {
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
  /** `NAME=value` */
  readonly environment: readonly string[];
  readonly workingDirectory: string;
  /** Names are looked up in the image; ids are those inside it. */
  readonly user: ContainerUser & { readonly home: string };
  readonly stopSignal: string | null;
}

/** An image as a root file system; its file is the importer's, and may be gone when it is disposed of. */
export interface ImportedImage extends AsyncDisposable {
  /** Of the manifest for the workers' platform. */
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  readonly rootfs: BlobRef & { readonly path: string };
}

export interface ImageRequest {
  readonly reference: string;
  readonly auth: RegistryAuth | null;
  /** What is pulled for one project is never given to another. */
  readonly project: string;
}

/** Where images come from. */
export interface Images {
  /** @throws CocoreError `image_unknown`, `image_digest`, `image_too_large`, `image_refused`, `image_timeout` or `importer_unavailable` */
  import(
    request: ImageRequest,
    onProgress: (progress: DeployProgress) => void,
    signal: AbortSignal,
  ): Promise<ImportedImage>;
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

type ImageSource = NonNullable<FunctionDeploy['image']>;

/** The image is imported and pinned: whatever its tag names later, this version runs what it names now. @throws CocoreError */
export async function fromImage(
  parts: HttpParts,
  projectId: string,
  { reference, auth, command }: ImageSource,
  listener: DeployListener,
): Promise<MadeVersion> {
  const { images, store, blobs, imager, limits } = parts;
  if (images === null) throw new CocoreError('importer_unavailable', 'this server imports no images');
  const request = { reference, auth: auth ?? null, project: projectId };
  await using imported = await images.import(request, (progress) => listener.progress(progress), listener.signal);
  const process = processOfImage(imported.config, command);
  const admit = async (blob: BlobRef) => store.addBlob(projectId, blob, limits);
  const { path, digest, bytes } = imported.rootfs;
  await admit({ digest, bytes });
  const image = await blobs.adopt(path);
  return {
    runtime: null,
    source: { kind: 'image', reference, digest: imported.manifestDigest },
    handler: null,
    process,
    code: await imager.makeEmpty(admit),
    image,
  };
}

/** As Docker: arguments given replace the image's own, and its entry point stays. @throws CocoreError `image_refused` */
export function processOfImage(config: ImageConfig, command: readonly string[] | undefined): FunctionProcess {
  const argv = [...config.entrypoint, ...(command ?? config.command)];
  if (argv.length === 0) {
    throw new CocoreError('image_refused', 'the image has neither an entry point nor a command, and none was given');
  }
  const { uid, gid, additionalGids, home } = config.user;
  return {
    argv,
    env: { PATH: DEFAULT_PATH, HOME: home, ...variables(config.environment) },
    cwd: config.workingDirectory,
    user: { uid, gid, additionalGids },
    stopSignal: config.stopSignal,
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
