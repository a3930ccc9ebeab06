import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, realpath } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

/** Firecracker and its jailer, by absolute path, links followed: the jailer names the jail after the file. */
export interface FirecrackerTools {
  readonly firecracker: string;
  readonly jailer: string;
}

/**
 * Where the programs are: as the environment says (`COCORE_FIRECRACKER`, `COCORE_JAILER`), else on the PATH. Null for one that is not
 * there.
 */
export async function findTools(
  env: NodeJS.ProcessEnv,
): Promise<{ readonly [Tool in keyof FirecrackerTools]: string | null }> {
  return {
    firecracker: await findProgram(env['COCORE_FIRECRACKER'], 'firecracker', env),
    jailer: await findProgram(env['COCORE_JAILER'], 'jailer', env),
  };
}

async function findProgram(given: string | undefined, name: string, env: NodeJS.ProcessEnv): Promise<string | null> {
  const directories = (env['PATH'] ?? '').split(delimiter).filter((directory) => directory.startsWith('/'));
  const candidates = given === undefined ? directories.map((directory) => join(directory, name)) : [given];
  for (const candidate of candidates) {
    try {
      const path = await realpath(candidate);
      await access(path, constants.X_OK);
      return path;
    } catch {
      continue;
    }
  }
  return null;
}

export interface Version {
  readonly major: number;
  readonly minor: number;
  /** As the program says it. */
  readonly text: string;
}

/** The first line is `Firecracker v1.16.1` or `Jailer v1.16.1`. */
export function parseVersion(output: string): Version | null {
  const found = /^(?:Firecracker|Jailer) v((\d+)\.(\d+)\.\d+\S*)/m.exec(output);
  return found === null ? null : { major: Number(found[2]), minor: Number(found[3]), text: found[1]! };
}

/** @throws when the program does not run, or says something else */
export async function versionOf(program: string): Promise<Version> {
  const { stdout } = await promisify(execFile)(program, ['--version'], { timeout: 10_000, maxBuffer: 64 * 1024 });
  const version = parseVersion(stdout);
  if (version === null) throw new Error(`it does not say its version: ${stdout.slice(0, 100)}`);
  return version;
}

export const isAtLeast = ({ major, minor }: Version, [wantedMajor, wantedMinor]: readonly [number, number]): boolean =>
  major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
