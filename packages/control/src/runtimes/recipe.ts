import { type ContainerUser, type Recipe, ROOT_USER } from '@cocore/protocol';
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
  surroundings: Surroundings,
): FunctionProcess {
  const command = handler === null ? recipe.program : recipe.handler!.command;
  return processIn(surroundings, recipe, command, entry, handler ?? '');
}

/** How a recipe's build is started. */
export const buildProcessOf = (
  recipe: Recipe,
  command: readonly string[],
  entry: string,
  surroundings: Surroundings,
): FunctionProcess => processIn(surroundings, recipe, command, entry, '');

function processIn(
  { env, cwd, user }: Surroundings,
  recipe: Recipe,
  command: readonly string[],
  entry: string,
  handler: string,
): FunctionProcess {
  const words: Record<string, string> = { entry: `${CODE_DIRECTORY}/${entry}`, code: CODE_DIRECTORY, handler };
  return {
    argv: command.map((word) => word.replaceAll(/\{(entry|code|handler)\}/g, (_, name: string) => words[name]!)),
    env: { ...env, ...recipe.env },
    cwd,
    user,
    stopSignal: null,
  };
}
