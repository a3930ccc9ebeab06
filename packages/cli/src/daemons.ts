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

/** The daemons need tools of the system that a user's own PATH may not reach, on Debian for one. */
const withSystemTools = (env: NodeJS.ProcessEnv): NodeJS.ProcessEnv & { PATH: string } => ({
  ...env,
  PATH: `${env['PATH'] || '/usr/bin:/bin'}:/usr/sbin:/sbin`,
});

const commandOf = (name: DaemonName, args: readonly string[]): [string, ...string[]] => {
  const main = fileURLToPath(import.meta.resolve(`@cocore/${name}/main`));
  return ['setpriv', '--pdeathsig', 'TERM', process.execPath, main, ...args];
};

/**
 * Starts one daemon as a process of its own, in a session of its own (a terminal's Ctrl-C reaches the parent alone, which then
 * stops it in order). It is told to stop when the parent dies, however that dies.
 */
export function startDaemon(
  name: DaemonName,
  args: readonly string[],
  options: { env: NodeJS.ProcessEnv; stdio: StdioOptions },
): ChildProcess {
  const [program, ...rest] = commandOf(name, args);
  return spawn(program, rest, { env: withSystemTools(options.env), stdio: options.stdio, detached: true });
}

/**
 * Runs what follows the two variables, with the first line of standard input as its own, and tells it to stop when standard
 * input ends: a user may not signal what sudo started, and a pipe ends however its writer does.
 */
const KEEPER = `
export PATH="$1" COCORE_LOG_LEVEL="$2"
shift 2
IFS= read -r line
exec 3<&0
printf '%s\\n' "$line" | "$@" 3<&- &
daemon=$!
{ while read -r _ <&3; do :; done; kill -TERM "$daemon"; } >/dev/null 2>&1 &
watcher=$!
trap '' INT TERM HUP
wait "$daemon"
status=$?
kill -KILL "$watcher" 2>/dev/null
exit "$status"
`;

/**
 * Starts one daemon by sudo, which asks for a password at the terminal where it must. The first line written to its standard
 * input is the daemon's; the end of that input stops it.
 */
export function startDaemonByRoot(name: DaemonName, args: readonly string[], env: NodeJS.ProcessEnv): ChildProcess {
  const { PATH } = withSystemTools(env);
  const keeper = ['sh', '-c', KEEPER, 'sh', PATH, env['COCORE_LOG_LEVEL'] ?? 'info'];
  return spawn('sudo', ['--', ...keeper, ...commandOf(name, args)], { env, stdio: ['pipe', 'pipe', 'pipe'] });
}

/** Runs one daemon in the foreground, passing signals on. Resolves with its exit code. */
export async function runDaemon(name: DaemonName, args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const given = args.includes('--artifacts') ? args : [...args, '--artifacts', artifacts(env)];
  return inForeground(name, given, env);
}

/** As `runDaemon`, for what needs nothing that set-up built. */
export function inForeground(name: DaemonName, args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const child = startDaemon(name, args, { env, stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => child.kill(signal === 'SIGHUP' ? 'SIGTERM' : signal));
  }
  // It asks a worker to finish what it has.
  if (name === 'worker') process.on('SIGUSR2', () => child.kill('SIGUSR2'));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}
