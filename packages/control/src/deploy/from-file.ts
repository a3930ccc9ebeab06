import { CocoreError, fromBase64, type FunctionDeploy, MAX_CODE_BYTES } from '@cocore/protocol';
import type { HttpParts } from '../http/parts.ts';
import { processOf, recipeNamed } from '../runtimes/recipe.ts';
import type { MadeVersion } from './job.ts';

/** One file of source code, run by a recipe. @throws CocoreError */
export async function fromFile(
  parts: HttpParts,
  projectId: string,
  file: NonNullable<FunctionDeploy['file']>,
  { runtime, handler }: FunctionDeploy,
): Promise<MadeVersion> {
  const recipe = recipeNamed(runtime!);
  const content = fromBase64(file.contentBase64);
  if (content.length > MAX_CODE_BYTES) {
    throw new CocoreError(
      'input_too_large',
      `the code has ${content.length} bytes; at most ${MAX_CODE_BYTES} are taken`,
    );
  }
  const code = await parts.imager.make(file.name, content, async (blob) =>
    parts.store.addBlob(projectId, blob, parts.limits),
  );
  return {
    runtime: recipe.name,
    source: { kind: 'file', name: file.name },
    handler: handler ?? null,
    process: processOf(recipe, file.name),
    code,
    image: parts.baseImage,
  };
}
