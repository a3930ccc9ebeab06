import type { InsideConfig, Phase } from './inside/messages.ts';

/** What `docker login` keeps for a registry. */
export type RegistryAuth =
  | { readonly username: string; readonly password: string }
  /** A refresh token that the registry's token service takes. */
  | { readonly identityToken: string };

export interface ImportRequest {
  /** As the user wrote it: `debian`, `ghcr.io/a/b:1`, `…@sha256:…`. */
  readonly reference: string;
  readonly platform: { readonly os: 'linux'; readonly architecture: 'amd64' };
  readonly auth: RegistryAuth | null;
  /** Whose import it is, a project's id: nothing that one scope has pulled is given to another. */
  readonly scope: string;
  /** Whether the registry may be on this host's loopback; it is then spoken to in plain HTTP. */
  readonly allowLoopback: boolean;
}

export interface ImportProgress {
  /** `waiting` for other imports to end; then the phases in their order. */
  readonly phase: 'waiting' | Phase;
  /** Of the layers as the registry has them. 0 while not known. */
  readonly bytes: number;
  readonly totalBytes: number;
  readonly layers: number;
  readonly totalLayers: number;
}

/** What an image says of how to run it. */
export type ImageConfig = InsideConfig;

/** An image on this host. Its file stays at its path until this is disposed of; link or copy it before. */
export interface ImportedImage extends AsyncDisposable {
  /** Pinned: `HOST/NAME@sha256:…` of the platform's manifest. */
  readonly reference: string;
  /** Of what the name led to: an index, or the manifest itself. */
  readonly indexDigest: string;
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  /** A read-only erofs, the same bytes for the same image wherever it is made. */
  readonly rootfs: {
    readonly path: string;
    readonly digest: string;
    readonly bytes: number;
    /** Whether it was made, and its digest taken, just now; else that was for an earlier request. */
    readonly isNew: boolean;
  };
}
