import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CocoreError, Recipe, type RuntimeRecord } from '@cocore/protocol';

const BUILT_IN = fileURLToPath(new URL('recipes', import.meta.url));

/** A recipe with the bytes of the files that it names. */
export interface Runtime {
  readonly recipe: Recipe;
  /** Null where it runs no handlers. */
  readonly bootstrap: Uint8Array | null;
  /** Null where its build needs none. */
  readonly buildScript: Uint8Array | null;
}

/** The runtimes of a server: those that come with it, and its operator's, which win. */
export class Recipes {
  readonly #byName: ReadonlyMap<string, Runtime>;

  private constructor(runtimes: readonly Runtime[]) {
    this.#byName = new Map(runtimes.map((runtime) => [runtime.recipe.name, runtime]));
  }

  /**
   * @param directory the operator's: every `.json` in it is a recipe
   * @throws CocoreError `recipe_invalid`, `file_unreadable`
   */
  static load(directory: string | null): Recipes {
    const own = directory === null ? [] : readRecipes(directory);
    const replaced = new Set(own.map(({ recipe }) => recipe.name));
    return new Recipes([...own, ...readRecipes(BUILT_IN).filter(({ recipe }) => !replaced.has(recipe.name))]);
  }

  /** @throws CocoreError `runtime_unknown` */
  named(name: string): Runtime {
    const runtime = this.#byName.get(name);
    if (runtime !== undefined) return runtime;
    const names = [...this.#byName.keys()].sort().join(', ');
    throw new CocoreError('runtime_unknown', `there is no runtime ${name}; there are ${names}`);
  }

  /** The operator's first. */
  list(): RuntimeRecord[] {
    return [...this.#byName.values()].map(({ recipe }) => ({
      name: recipe.name,
      extensions: recipe.extensions,
      interpreters: recipe.interpreters,
      entries: recipe.entries,
      manifest: recipe.manifest ?? null,
      handlers: recipe.handler !== undefined,
    }));
  }
}

function readRecipes(directory: string): Runtime[] {
  let names: string[];
  try {
    names = readdirSync(directory).filter((name) => name.endsWith('.json'));
  } catch (cause) {
    throw new CocoreError('file_unreadable', `the directory ${directory} cannot be read`, { cause });
  }
  const files = new Map<string, string>();
  return names.sort().map((name) => {
    const path = join(directory, name);
    const runtime = readRecipe(directory, path);
    const other = files.get(runtime.recipe.name);
    if (other !== undefined) throw invalid(path, `${other} has the name ${runtime.recipe.name} too`);
    files.set(runtime.recipe.name, path);
    return runtime;
  });
}

function readRecipe(directory: string, path: string): Runtime {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw invalid(path, cause instanceof Error ? cause.message : String(cause), cause);
  }
  const parsed = Recipe.safeParse(content);
  if (!parsed.success) {
    const faults = parsed.error.issues.map(({ path: at, message }) => [...at, message].join(': '));
    throw invalid(path, faults.join('; '));
  }
  const { data: recipe } = parsed;
  const readBeside = (what: string, name: string | undefined) => {
    if (name === undefined) return null;
    try {
      return readFileSync(join(directory, name));
    } catch (cause) {
      throw invalid(path, `its ${what} ${name} cannot be read`, cause);
    }
  };
  return {
    recipe,
    bootstrap: readBeside('bootstrap', recipe.handler?.bootstrap),
    buildScript: readBeside('build script', recipe.build?.script),
  };
}

const invalid = (path: string, why: string, cause?: unknown) =>
  new CocoreError('recipe_invalid', `${path}: ${why}`, { cause });
