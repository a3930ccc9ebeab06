import type { DeployProgress } from '@cocore/protocol';
import type { ImageImporter } from '../importer/image-importer.ts';
import type { ImageRequest, ImportedImage, Images } from './from-image.ts';

/** What workers run. */
const PLATFORM = { os: 'linux', architecture: 'amd64' } as const;

/** Images of registries, as the importer makes them. */
export class RegistryImages implements Images {
  readonly #importer: ImageImporter;
  readonly #allowLoopback: boolean;

  /** @param allowLoopback whether a registry may be on this host's loopback, where plain HTTP is spoken */
  constructor(importer: ImageImporter, { allowLoopback }: { readonly allowLoopback: boolean }) {
    this.#importer = importer;
    this.#allowLoopback = allowLoopback;
  }

  import(
    { reference, auth, project }: ImageRequest,
    onProgress: (progress: DeployProgress) => void,
    signal: AbortSignal,
  ): Promise<ImportedImage> {
    const request = { reference, auth, platform: PLATFORM, scope: project, allowLoopback: this.#allowLoopback };
    return this.#importer.import(request, ({ phase, ...rest }) => onProgress({ step: phase, ...rest }), signal);
  }
}
