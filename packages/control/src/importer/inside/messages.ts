/**
 * What the control server and the inside of an import say to each other: one JSON document a line, on the inside's standard input and output.
 * The control server takes what comes from the inside as hostile, and parses it with a schema.
 */

/** What an image may be at most. Sizes in bytes. */
export interface InsideLimits {
  /** All layers as the registry holds them. */
  readonly compressedBytes: number;
  /** All layers unpacked, headers of the archives included. */
  readonly unpackedBytes: number;
  /** Files, directories and links of all layers, directories that only a path names included. */
  readonly files: number;
  readonly layers: number;
  /** How many times larger than itself a layer may unpack, beyond `ratioFreeBytes`. */
  readonly ratio: number;
  /** What every layer may unpack to, whatever its ratio. */
  readonly ratioFreeBytes: number;
  /** Directories above a file. */
  readonly depth: number;
}

/** The first line to the inside. */
export interface InsideRequest {
  /** `HOST/NAME:TAG` or `HOST/NAME@DIGEST`. */
  readonly reference: string;
  /** Without tag and digest. */
  readonly repository: string;
  readonly registry: string;
  readonly platform: { readonly os: string; readonly architecture: string };
  /** The content of the file of credentials, as `docker login` writes it. */
  readonly credentials: string | null;
  /** A registry on the loopback of the host, spoken to in plain HTTP. */
  readonly loopback: { readonly host: string; readonly port: number } | null;
  readonly limits: InsideLimits;
}

/** The second line to the inside, in answer to `resolved`: whether to go on. */
export interface InsideGo {
  readonly go: boolean;
}

export type Phase = 'resolving' | 'pulling' | 'unpacking' | 'packing';

export interface InsideProgress {
  readonly phase: Phase;
  readonly bytes: number;
  readonly totalBytes: number;
  readonly layers: number;
  readonly totalLayers: number;
}

export interface InsideConfig {
  readonly entrypoint: string[];
  readonly command: string[];
  readonly environment: string[];
  readonly workingDirectory: string;
  readonly user: {
    readonly uid: number;
    readonly gid: number;
    readonly additionalGids: number[];
    readonly home: string;
  };
  readonly stopSignal: string | null;
}

export type InsideMessage =
  | ({ readonly type: 'progress' } & InsideProgress)
  | {
      readonly type: 'resolved';
      /** Of the index; of the manifest where the registry has no index. */
      readonly indexDigest: string;
      readonly manifestDigest: string;
    }
  /** A layer's bytes are what its digest says. */
  | { readonly type: 'verified'; readonly digest: string; readonly bytes: number }
  /** A layer that the store gave is not what its digest says. */
  | { readonly type: 'spoiled'; readonly digest: string }
  | { readonly type: 'done'; readonly config: InsideConfig }
  | { readonly type: 'failed'; readonly code: string; readonly message: string };
