import {
  type BlobRef,
  CocoreError,
  type FunctionDeploy,
  type FunctionSource,
  type RecipeImage,
} from '@cocore/protocol';
import { CodeTree, SOURCE_LIMITS } from '../code/code-tree.ts';
import { Content } from '../code/content.ts';
import type { HttpParts } from '../http/parts.ts';
import { inputsOf, isBuilt } from '../runtimes/build-inputs.ts';
import { BUILT_IN_SURROUNDINGS, processOf, type Surroundings } from '../runtimes/recipe.ts';
import { buildLayer, LAYER_LIMITS } from './build.ts';
import { importRoot } from './import-root.ts';
import type { DeployListener, MadeVersion } from './job.ts';

/** Source code that somebody deploys. */
export interface Code {
  readonly source: FunctionSource;
  /** The file that is run. */
  readonly entry: string;
  /** What it is kept in meanwhile is released with `scope`. @throws CocoreError `code_invalid` */
  read(scope: AsyncDisposableStack): Promise<CodeTree>;
}

/** A root file system, and what it brings to whatever runs in it. */
export interface Root {
  readonly image: BlobRef;
  readonly surroundings: Surroundings;
}

/** What source code may become with what was built for it. */
const BUILT_LIMITS = {
  bytes: SOURCE_LIMITS.bytes + LAYER_LIMITS.bytes,
  entries: SOURCE_LIMITS.entries + LAYER_LIMITS.entries,
};

/** Source code, built and run by a recipe. @throws CocoreError */
export async function fromCode(
  parts: HttpParts,
  projectId: string,
  code: Code,
  body: FunctionDeploy,
  listener: DeployListener,
): Promise<MadeVersion> {
  const { handler = null } = body;
  const { recipe, bootstrap, buildScript } = parts.recipes.named(body.runtime!);
  if (handler !== null && bootstrap === null) {
    throw new CocoreError('code_invalid', `the runtime ${recipe.name} runs programs, and no handlers`);
  }
  await using scope = new AsyncDisposableStack();
  listener.progress({ step: 'packing' });
  const source = await code.read(scope);
  source.requireFile(code.entry);
  let known: Root | null = null;
  const ownRoot = async () => (known ??= await rootOf(parts, projectId, recipe.image, listener));
  const tree = new CodeTree(BUILT_LIMITS);
  tree.lay(source, '');
  if (handler !== null) tree.addOwn(recipe.handler!.bootstrap, Content.of(bootstrap!));
  const { build } = recipe;
  if (build !== undefined && (await isBuilt(build, source))) {
    const buildRoot =
      build.image === undefined ? await ownRoot() : await rootOf(parts, projectId, build.image, listener);
    const inputs = new CodeTree(BUILT_LIMITS);
    inputs.lay(inputsOf(build, source), '');
    if (build.script !== undefined) inputs.addOwn(build.script, Content.of(buildScript!));
    const request = { projectId, body, recipe, build, inputs, entry: code.entry, root: buildRoot };
    tree.lay(await buildLayer(parts, request, scope, listener), build.into ?? '');
    tree.checkLinks();
    listener.progress({ step: 'packing' });
  }
  const image = await parts.imager.make(tree, async (blob) => parts.store.addBlob(projectId, blob, parts.limits));
  // Only once the code is admitted: an image is large.
  const root = await ownRoot();
  return {
    runtime: recipe.name,
    source: code.source,
    handler,
    process: processOf(recipe, code.entry, handler, root.surroundings),
    code: image,
    image: root.image,
  };
}

async function rootOf(
  parts: HttpParts,
  projectId: string,
  image: RecipeImage,
  listener: DeployListener,
): Promise<Root> {
  if ('reference' in image) return importRoot(parts, projectId, image.reference, undefined, listener);
  return { image: await parts.builtInImages.keep(image.builtIn), surroundings: BUILT_IN_SURROUNDINGS };
}
