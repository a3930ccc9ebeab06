import { BUILT_IN_SURROUNDINGS, processOf } from '../../src/runtimes/recipe.ts';
import { Recipes } from '../../src/runtimes/recipes.ts';

/** Of a version that is one bash file, for tests of what does not look at them. */
export const BASH_FILE = {
  runtime: 'bash',
  source: { kind: 'file', name: 'f.sh' },
  handler: null,
  process: processOf(Recipes.load(null).named('bash').recipe, 'f.sh', null, BUILT_IN_SURROUNDINGS),
} as const;
