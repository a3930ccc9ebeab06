import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { CocoreError, type RegistryAuth } from '@cocore/protocol';
import { z } from 'zod';

/** What Docker's `config.json` says of registries. Its other fields are none of our business. */
const DockerConfig = z.object({
  auths: z
    .record(z.string(), z.object({ auth: z.string().optional(), identitytoken: z.string().optional() }))
    .default({}),
  credsStore: z.string().optional(),
  credHelpers: z.record(z.string(), z.string()).default({}),
});
type DockerConfig = z.infer<typeof DockerConfig>;

const HelperAnswer = z.object({ Username: z.string(), Secret: z.string() });
/** A helper's answer with this user name carries a token instead of a password. */
const TOKEN_USER = '<token>';
const HELPER_MS = 30_000;

/** Docker Hub is kept under this name. */
const DOCKER_HUB = 'https://index.docker.io/v1/';

/** The host that an image's reference names: Docker Hub's where it names none. */
export function registryOf(reference: string): string {
  const [first, ...rest] = reference.split('/');
  const isHost = rest.length > 0 && (/[.:]/.test(first!) || first === 'localhost');
  return isHost ? first! : 'docker.io';
}

/**
 * The credentials that `docker login` keeps for the registry of an image, from `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, by the
 * same rules: a helper of the registry, then the store, then the file itself. Undefined where there are none.
 *
 * @throws CocoreError `file_unreadable` for a configuration that cannot be read, or a helper that fails
 */
export function registryAuth(reference: string, env: NodeJS.ProcessEnv): RegistryAuth | undefined {
  const path = join(env['DOCKER_CONFIG'] || join(env['HOME'] || homedir(), '.docker'), 'config.json');
  const config = readConfig(path);
  if (config === null) return undefined;
  const registry = registryOf(reference);
  const names =
    registry === 'docker.io' ? [DOCKER_HUB, 'docker.io', 'index.docker.io'] : [registry, `https://${registry}`];
  for (const name of names) {
    const helper = config.credHelpers[name];
    if (helper !== undefined) return askHelper(helper, name, env);
  }
  if (config.credsStore !== undefined) {
    for (const name of names) {
      const auth = askHelper(config.credsStore, name, env);
      if (auth !== undefined) return auth;
    }
  }
  for (const name of names) {
    const entry = config.auths[name] ?? config.auths[`${name}/`];
    if (entry?.identitytoken !== undefined && entry.identitytoken !== '') return { identityToken: entry.identitytoken };
    if (entry?.auth === undefined || entry.auth === '') continue;
    const [, username, password] = /^([^:]+):(.*)$/s.exec(Buffer.from(entry.auth, 'base64').toString('utf8')) ?? [];
    if (username === undefined)
      throw new CocoreError('file_unreadable', `${path} has no user and password for ${name}`);
    return { username, password: password!.replace(/\0+$/, '') };
  }
  return undefined;
}

function readConfig(path: string): DockerConfig | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
  try {
    return DockerConfig.parse(JSON.parse(text));
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path} is not a configuration of Docker`, { cause });
  }
}

/** `docker-credential-NAME get` is given the registry's name, and answers with JSON; that it has none it says on standard output. */
function askHelper(helper: string, registry: string, env: NodeJS.ProcessEnv): RegistryAuth | undefined {
  const program = `docker-credential-${helper}`;
  if (!/^[A-Za-z0-9._-]+$/.test(helper)) throw new CocoreError('file_unreadable', `${program} cannot be a program`);
  const { status, stdout, error } = spawnSync(program, ['get'], {
    input: registry,
    encoding: 'utf8',
    env,
    timeout: HELPER_MS,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  // One that does not read its input to the end has answered all the same.
  if (error !== undefined && (error as NodeJS.ErrnoException).code !== 'EPIPE') {
    throw new CocoreError('file_unreadable', `${program}, which Docker's configuration names, does not run`, {
      cause: error,
    });
  }
  if (status !== 0) {
    if (/credentials not found/i.test(stdout)) return undefined;
    throw new CocoreError('file_unreadable', `${program} failed: ${stdout.trim().slice(0, 200)}`);
  }
  try {
    const { Username, Secret } = HelperAnswer.parse(JSON.parse(stdout));
    return Username === TOKEN_USER ? { identityToken: Secret } : { username: Username, password: Secret };
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${program} answered with what cannot be read`, { cause });
  }
}

/** What a function of an image is called when nobody says: the last part of its reference, without tag and digest. */
export function nameOfImage(reference: string): string {
  const [path] = reference.split('@');
  const last = path!.split('/').at(-1)!.split(':')[0]!;
  return last
    .toLowerCase()
    .replaceAll(/[^a-z0-9-]+/g, '-')
    .replaceAll(/^-+|-+$/g, '');
}
