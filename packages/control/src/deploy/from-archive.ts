import { buffer } from 'node:stream/consumers';
import { CocoreError, type FunctionDeploy } from '@cocore/protocol';
import { readArchive } from '../code/code-archive.ts';
import { writeTree } from '../code/write-tree.ts';
import type { HttpParts } from '../http/parts.ts';
import { Slots } from '../importer/slots.ts';
import type { Code } from './from-code.ts';

/** Each holds one archive in memory, of 64 MiB at most. */
const slots = new Slots(4);

/** A directory, as a tar archive that the project has uploaded. @throws CocoreError `blob_not_found` */
export async function codeOfArchive(
  { store, blobs }: HttpParts,
  projectId: string,
  { blob, entry }: NonNullable<FunctionDeploy['archive']>,
  signal: AbortSignal,
): Promise<Code> {
  if (!(await store.hasBlob(projectId, blob))) {
    throw new CocoreError('blob_not_found', `there is no blob ${blob} in this project`);
  }
  return {
    source: { kind: 'archive', entry },
    entry,
    write: async (directory) => {
      using _slot = await slots.take(signal);
      const { stream } = await blobs.read(blob);
      const tree = readArchive(await buffer(stream));
      tree.requireFile(entry);
      await writeTree(tree, directory);
    },
  };
}
