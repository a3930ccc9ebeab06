import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type BlobRef, CocoreError, type FunctionSource, type Recipe } from '@cocore/protocol';
import { OWN_DIRECTORY } from '../code/code-tree.ts';
import type { HttpParts } from '../http/parts.ts';
import { bootstrapPath, BUILT_IN_SURROUNDINGS, processOf, type Surroundings } from '../runtimes/recipe.ts';
import { importRoot } from './import-root.ts';
import type { DeployListener, MadeVersion } from './job.ts';

/** Source code that somebody deploys. */
export interface Code {
  readonly source: FunctionSource;
  /** The file that is run. */
  readonly entry: string;
  /** Writes it into an empty directory. @throws CocoreError `code_invalid` */
  write(directory: string): Promise<void>;
}

/**
 * Source code, run by a recipe.
 *
 * @param handler the name of the handler; null for a program
 * @throws CocoreError
 */
export async function fromCode(
  parts: HttpParts,
  projectId: string,
  code: Code,
  { runtime, handler }: { readonly runtime: string; readonly handler: string | null },
  listener: DeployListener,
): Promise<MadeVersion> {
  const { recipe, bootstrap } = parts.recipes.named(runtime);
  if (handler !== null && bootstrap === null) {
    throw new CocoreError('code_invalid', `the runtime ${recipe.name} runs programs, and no handlers`);
  }
  listener.progress({ step: 'packing' });
  const image = await parts.imager.make(
    async (directory) => {
      await code.write(directory);
      if (handler !== null) {
        const own = join(directory, OWN_DIRECTORY);
        await mkdir(own);
        await chmod(own, 0o755);
        await placeFile(join(directory, bootstrapPath(recipe)), bootstrap!);
      }
    },
    async (blob) => parts.store.addBlob(projectId, blob, parts.limits),
  );
  const root = await rootOf(parts, projectId, recipe, listener);
  return {
    runtime: recipe.name,
    source: code.source,
    handler,
    process: processOf(recipe, code.entry, handler, root.surroundings),
    code: image,
    image: root.image,
  };
}

/** Executable, and readable by all. */
export async function placeFile(path: string, content: Uint8Array): Promise<void> {
  await writeFile(path, content);
  await chmod(path, 0o555);
}

async function rootOf(
  parts: HttpParts,
  projectId: string,
  { image }: Recipe,
  listener: DeployListener,
): Promise<{ readonly image: BlobRef; readonly surroundings: Surroundings }> {
  if ('reference' in image) return importRoot(parts, projectId, image.reference, undefined, listener);
  return { image: await parts.builtInImages.keep(image.builtIn), surroundings: BUILT_IN_SURROUNDINGS };
}
