import { userInfo } from 'node:os';
import { join } from 'node:path';

type Env = NodeJS.ProcessEnv;

/** An empty environment still has a user with a home. */
const home = (env: Env): string => (env['HOME'] ? env['HOME'] : userInfo().homedir);
const xdg = (env: Env, name: string, fallback: string): string => env[name] || join(home(env), fallback);

export const credentialsDir = (env: Env): string =>
  join(xdg(env, 'XDG_CONFIG_HOME', '.config'), 'cocore', 'credentials');
export const dataDir = (env: Env): string => join(xdg(env, 'XDG_DATA_HOME', '.local/share'), 'cocore');
/** What `scripts/setup.sh` wrote: where kernel, initial file system and base image are. */
export const artifactsFile = (env: Env): string =>
  join(env['COCORE_CACHE_DIR'] || join(xdg(env, 'XDG_CACHE_HOME', '.cache'), 'cocore'), 'current.json');
