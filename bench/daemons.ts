/** Server and worker as processes of their own, as the command starts them. Extra flags of Node, for a profile, are in the environment. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CocoreClient } from '@cocore/client';
import { defaultArtifacts } from '../packages/worker/src/config.ts';
import { Program, type ProgramOptions } from './peers/service.ts';

export interface Address {
  readonly url: string;
  readonly apiKey: string;
}

/** Flags for the Node of one part, of `COCORE_BENCH_NODE_CONTROL`, `…_WORKER` and `…_CLIENT`. */
export const nodeFlags = (part: 'control' | 'worker' | 'client'): string[] =>
  (process.env[`COCORE_BENCH_NODE_${part.toUpperCase()}`] ?? '').split(' ').filter(Boolean);

function daemon(name: 'control' | 'worker', args: readonly string[], options: ProgramOptions): Program {
  const main = fileURLToPath(new URL(`../packages/${name}/src/main.ts`, import.meta.url));
  const env = { ...options.env, COCORE_LOG_LEVEL: process.env['COCORE_LOG_LEVEL'] ?? 'error' };
  return new Program(process.execPath, [...nodeFlags(name), main, ...args], { env });
}

/** Its data is in `server` of the directory. */
export async function startControl(
  directory: string,
  env: NodeJS.ProcessEnv,
): Promise<Address & { readonly program: Program }> {
  const dataDir = join(directory, 'server');
  const args = ['--data-dir', dataDir, '--artifacts', defaultArtifacts(process.env), '--port', '0'];
  const program = daemon('control', [...args, '--default-isolation', 'container'], { env });
  const [, url] = await program.prints(/^ready (\S+)$/m);
  const apiKey = (await readFile(join(dataDir, 'operator.key'), 'utf8')).trim();
  return { url: url!, apiKey, program };
}

/** A worker; its data is in `worker` of the directory. @param cpus which it leases */
export async function startDaemon(
  { url, apiKey }: Address,
  directory: string,
  isolation: string,
  cpus: number,
): Promise<Program> {
  const client = new CocoreClient({ url, apiKey });
  const tokenFile = join(directory, 'join-token');
  await writeFile(tokenFile, (await client.joinTokens.create()).token, { mode: 0o600 });
  const lease = ['--cpus', String(cpus), '--memory', String(cpus * 1024), '--disk', '65536'];
  const own = ['--server', url, '--data-dir', join(directory, 'worker'), '--join-token-file', tokenFile];
  const program = daemon('worker', [...own, '--isolation', isolation, '--pool', 'off', ...lease], {
    env: process.env,
  });
  await program.prints(/^ready wk_/m);
  return program;
}
