import {
  type BlobRef,
  CocoreError,
  type ContainerUser,
  type DeployProgress,
  type FunctionDeploy,
  type RegistryAuth,
} from '@cocore/protocol';
import { CodeTree } from '../code/code-tree.ts';
import type { HttpParts } from '../http/parts.ts';
import type { FunctionProcess } from '../store/store.ts';
import { importRoot, surroundingsOf } from './import-root.ts';
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
  /** `isNew` when its bytes have been read just now. */
  readonly rootfs: BlobRef & { readonly path: string; readonly isNew: boolean };
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

type ImageSource = NonNullable<FunctionDeploy['image']>;

/** The image is imported and pinned: whatever its tag names later, this version runs what it names now. @throws CocoreError */
export async function fromImage(
  parts: HttpParts,
  projectId: string,
  { reference, auth, command }: ImageSource,
  listener: DeployListener,
): Promise<MadeVersion> {
  const { image, manifestDigest, config } = await importRoot(parts, projectId, reference, auth, listener);
  const process = processOfImage(config, command);
  const nothing = new CodeTree();
  const code = await parts.imager.make(nothing, async (blob) => parts.store.addBlob(projectId, blob, parts.limits));
  const source = { kind: 'image', reference, digest: manifestDigest } as const;
  return { runtime: null, source, handler: null, process, code, image };
}

/** As Docker: arguments given replace the image's own, and its entry point stays. @throws CocoreError `image_refused` */
export function processOfImage(config: ImageConfig, command: readonly string[] | undefined): FunctionProcess {
  const argv = [...config.entrypoint, ...(command ?? config.command)];
  if (argv.length === 0) {
    throw new CocoreError('image_refused', 'the image has neither an entry point nor a command, and none was given');
  }
  return { argv, ...surroundingsOf(config), stopSignal: config.stopSignal };
}
