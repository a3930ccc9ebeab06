import { processOf, recipeNamed } from '../../src/runtimes/recipe.ts';

/** Of a version that is one bash file, for tests of what does not look at them. */
export const BASH_FILE = {
  runtime: 'bash',
  source: { kind: 'file', name: 'f.sh' },
  handler: null,
  process: processOf(recipeNamed('bash'), 'f.sh'),
} as const;
