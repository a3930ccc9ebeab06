import type { BuildOutput, DeployProgress } from '@cocore/protocol';
import type { NewFunctionVersion } from '../store/store.ts';

/** What a source of code is made into: everything of a version but the fields that every deployment has. */
export type MadeVersion = Pick<NewFunctionVersion, 'runtime' | 'source' | 'handler' | 'process' | 'code' | 'image'>;

/** Whoever waits for a deployment. */
export interface DeployListener {
  /** May be told more often than it passes on. */
  progress(progress: DeployProgress): void;
  /** What a build prints; the build waits for it. */
  output(output: BuildOutput): Promise<void>;
  /** Aborts when nobody waits any more. */
  readonly signal: AbortSignal;
}
