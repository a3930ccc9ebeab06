import { type ChildProcess, spawn, type StdioOptions } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CocoreError } from '@cocore/protocol';
import { artifactsFile } from './paths.ts';

export type DaemonName = 'control' | 'worker';

/** Where set-up left what the daemons start from. @throws CocoreError `artifact_missing` */
export function artifacts(env: NodeJS.ProcessEnv): string {
  const path = artifactsFile(env);
  if (!existsSync(path)) throw new CocoreError('artifact_missing', `${path} does not exist`);
  return path;
}

/**
 * Starts one daemon as a process of its own, in a session of its own (a terminal's Ctrl-C reaches the parent alone, which then
 * stops it in order). It is told to stop when the parent dies, however that dies.
 */
export function startDaemon(
  name: DaemonName,
  args: readonly string[],
  options: { env: NodeJS.ProcessEnv; stdio: StdioOptions; asRoot?: boolean },
): ChildProcess {
  const main = fileURLToPath(import.meta.resolve(`@cocore/${name}/main`));
  const command = ['setpriv', '--pdeathsig', 'TERM', process.execPath, main, ...args];
  if (options.asRoot === true) command.unshift('sudo', '--preserve-env=PATH,COCORE_LOG_LEVEL');
  const [program, ...rest] = command;
  return spawn(program!, rest, { env: options.env, stdio: options.stdio, detached: true });
}

/** Runs one daemon in the foreground, passing signals on. Resolves with its exit code. */
export async function runDaemon(name: DaemonName, args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const given = args.includes('--artifacts') ? args : [...args, '--artifacts', artifacts(env)];
  const child = startDaemon(name, given, { env, stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => child.kill(signal === 'SIGHUP' ? 'SIGTERM' : signal));
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}
