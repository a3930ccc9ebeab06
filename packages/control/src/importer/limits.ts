import type { InsideLimits } from './inside/messages.ts';

/** What an import may take. */
export interface ImportLimits extends InsideLimits {
  /** From its start to its end, waiting for others not counted. */
  readonly timeoutMs: number;
}

const MIB = 1024 * 1024;

export const DEFAULT_IMPORT_LIMITS: ImportLimits = {
  compressedBytes: 4096 * MIB,
  unpackedBytes: 8192 * MIB,
  files: 500_000,
  layers: 128,
  ratio: 200,
  ratioFreeBytes: 64 * MIB,
  depth: 128,
  timeoutMs: 15 * 60_000,
};
