import { CocoreError, ROOT_USER } from '@cocore/protocol';
import type { FunctionProcess } from '../store/store.ts';

/**
 * How source code of one language becomes a process: data, so that another language is another entry. In commands, `{entry}` stands for
 * the path of the file that is run.
 */
export interface Recipe {
  readonly name: string;
  /** Starts a file as a program; the execution's arguments follow. */
  readonly program: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Where a function's code is, and where it runs. */
const CODE_DIRECTORY = '/function';
const WORK_DIRECTORY = '/work';

const COMMON_ENV = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
  HOME: WORK_DIRECTORY,
};

const RECIPES: readonly Recipe[] = [
  { name: 'bash', program: ['/bin/bash', '{entry}'], env: {} },
  { name: 'python', program: ['/usr/bin/python3', '{entry}'], env: { PYTHONUNBUFFERED: '1' } },
];

/** @throws CocoreError `runtime_unknown` */
export function recipeNamed(name: string): Recipe {
  const recipe = RECIPES.find((one) => one.name === name);
  if (recipe !== undefined) return recipe;
  const names = RECIPES.map((one) => one.name).join(', ');
  throw new CocoreError('runtime_unknown', `there is no runtime ${name}; there are ${names}`);
}

/** @param entry the file that is run, relative to the code's directory */
export function processOf(recipe: Recipe, entry: string): FunctionProcess {
  const path = `${CODE_DIRECTORY}/${entry}`;
  return {
    argv: recipe.program.map((word) => (word === '{entry}' ? path : word)),
    env: { ...COMMON_ENV, ...recipe.env },
    cwd: WORK_DIRECTORY,
    user: ROOT_USER,
    stopSignal: null,
  };
}
