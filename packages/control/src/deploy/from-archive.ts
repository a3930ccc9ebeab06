import { CocoreError, type FunctionDeploy } from '@cocore/protocol';
import { readArchive } from '../code/code-archive.ts';
import { SpooledContent } from '../code/content.ts';
import type { HttpParts } from '../http/parts.ts';
import type { Code } from './from-code.ts';

/** A directory, as a tar archive that the project has uploaded. @throws CocoreError `blob_not_found` */
export async function codeOfArchive(
  { store, blobs, temporaryDirectory }: HttpParts,
  projectId: string,
  { blob, entry }: NonNullable<FunctionDeploy['archive']>,
): Promise<Code> {
  if (!(await store.hasBlob(projectId, blob))) {
    throw new CocoreError('blob_not_found', `there is no blob ${blob} in this project`);
  }
  return {
    source: { kind: 'archive', entry },
    entry,
    read: async (scope) => {
      const { stream } = await blobs.read(blob);
      const archive = scope.use(await SpooledContent.of(stream, temporaryDirectory));
      return readArchive(archive.content);
    },
  };
}
