import { type ContainerUser, type Recipe, ROOT_USER } from '@cocore/protocol';
import { OWN_DIRECTORY } from '../code/code-tree.ts';
import type { FunctionProcess } from '../store/store.ts';

/** Where a function's code is in the sandbox. */
const CODE_DIRECTORY = '/function';
const WORK_DIRECTORY = '/work';

/** What an image brings to whatever runs in it. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly user: ContainerUser;
}

/** Of the images that the set-up builds. */
export const BUILT_IN_SURROUNDINGS: Surroundings = {
  env: {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    LANG: 'C.UTF-8',
    HOME: WORK_DIRECTORY,
  },
  cwd: WORK_DIRECTORY,
  user: ROOT_USER,
};

/**
 * How a recipe starts code.
 *
 * @param entry the file that is run, relative to the code's directory
 * @param handler null for a program
 */
export function processOf(
  recipe: Recipe,
  entry: string,
  handler: string | null,
  { env, cwd, user }: Surroundings,
): FunctionProcess {
  const words: Record<string, string> = {
    entry: `${CODE_DIRECTORY}/${entry}`,
    code: CODE_DIRECTORY,
    handler: handler ?? '',
  };
  const command = handler === null ? recipe.program : recipe.handler!.command;
  return {
    argv: command.map((word) => word.replaceAll(/\{(entry|code|handler)\}/g, (_, name: string) => words[name]!)),
    env: { ...env, ...recipe.env },
    cwd,
    user,
    stopSignal: null,
  };
}

/** Where a recipe's bootstrap is put beside the code. */
export const bootstrapPath = (recipe: Recipe): string => `${OWN_DIRECTORY}/${recipe.handler!.bootstrap}`;
