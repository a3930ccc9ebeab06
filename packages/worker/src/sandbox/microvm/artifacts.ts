import { CocoreError } from '@cocore/protocol';
import { accessSync, readFileSync } from 'node:fs';
import { z } from 'zod';

/** `current.json`: what the set-up built, by path. */
const ArtifactsFile = z.object({
  kernel: z.string(),
  initrd: z.string(),
  baseImage: z.string(),
  nodeImage: z.string(),
  qemu: z.string(),
});
export type Artifacts = z.infer<typeof ArtifactsFile>;

/** @throws CocoreError `artifact_missing` */
export function readArtifacts(path: string): Artifacts {
  let artifacts: Artifacts;
  try {
    artifacts = ArtifactsFile.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch (cause) {
    throw new CocoreError('artifact_missing', `${path} does not describe the built artifacts`, { cause });
  }
  for (const file of [artifacts.kernel, artifacts.initrd, artifacts.baseImage, artifacts.nodeImage, artifacts.qemu]) {
    try {
      accessSync(file);
    } catch (cause) {
      throw new CocoreError('artifact_missing', `${file} is not there`, { cause });
    }
  }
  return artifacts;
}
