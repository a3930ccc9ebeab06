import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { openCgroups } from '../../src/cgroup/open.ts';
import { defaultArtifacts } from '../../src/config.ts';
import { FirecrackerDriver, type FirecrackerDriverOptions } from '../../src/sandbox/firecracker/firecracker-driver.ts';
import type { ProbedTools } from '../../src/sandbox/firecracker/probe.ts';
import { findTools } from '../../src/sandbox/firecracker/tools.ts';
import { readArtifacts } from '../../src/sandbox/microvm/artifacts.ts';
import { doubleSkip } from '../../../../tests/firecracker-double/place.ts';
import type { DriverTarget } from '../driver.conformance.ts';
import { workspace } from './workspace.ts';

const STEPS = fileURLToPath(new URL('steps.sh', import.meta.url));
const DOUBLE = fileURLToPath(new URL('../../../../tests/firecracker-double/bin/', import.meta.url));

/** Whether the environment names the real programs; else the double is tested. */
export const isReal = process.env['COCORE_FIRECRACKER'] !== undefined && process.env['COCORE_JAILER'] !== undefined;

/** Why no Firecracker, real or double, can be started here; false when one can. */
export function firecrackerSkip(): string | false {
  const path = defaultArtifacts(process.env);
  if (!existsSync(path)) return `there are no artifacts at ${path}: run npm run setup`;
  if (process.geteuid?.() !== 0) return 'sandboxes are made by root';
  return isReal ? false : doubleSkip();
}

/** The double is Node and QEMU with its translated code, where Firecracker is a few MB. */
const DOUBLE_OVERHEAD_MIB = 320;

export interface FirecrackerTarget extends DriverTarget {
  readonly driver: FirecrackerDriver;
  readonly tools: ProbedTools;
  /** A directory of the test's own, above the driver's. */
  readonly path: string;
  readonly runDir: string;
}

/** The double's programs, the VMM's failing as told. */
export async function doubleTools(directory: string, fault: string | null = null): Promise<ProbedTools> {
  const jailer = join(DOUBLE, 'jailer');
  if (fault === null) return { firecracker: join(DOUBLE, 'firecracker'), jailer };
  const firecracker = join(directory, 'firecracker');
  const inJail = `exec env DOUBLE_FAULT=${fault} /double/node /double/firecracker.ts "$@"`;
  const outside = `exec ${join(DOUBLE, 'firecracker')} "$@"`;
  await writeFile(firecracker, `#!/bin/sh\nif [ -x /double/node ]; then ${inJail}; fi\n${outside}\n`);
  await chmod(firecracker, 0o755);
  return { firecracker, jailer };
}

/** The Firecracker driver on this host, with a code drive that plays steps. `fault` is for the double. */
export async function firecrackerTarget(
  daemonTag: string,
  { fault = null, options = {} }: { fault?: string | null; options?: Partial<FirecrackerDriverOptions> } = {},
): Promise<FirecrackerTarget> {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const artifacts = readArtifacts(defaultArtifacts(process.env));
  const code = join(path, 'code');
  await mkdir(code);
  await copyFile(STEPS, join(code, 'steps.sh'));
  const codePath = join(path, 'code.erofs');
  await promisify(execFile)('mkfs.erofs', ['--quiet', codePath, code]);
  const isDouble = !isReal || fault !== null;
  const tools = isDouble ? await doubleTools(path, fault) : await findTools(process.env);
  const { runDir = join(path, 'run') } = options;
  const make = () =>
    new FirecrackerDriver({
      tools,
      artifacts,
      runDir,
      daemonTag,
      snapshots: null,
      ...(isDouble
        ? { vmmOverheadMiB: DOUBLE_OVERHEAD_MIB, bootDeadlineMs: 60_000, apiDeadlineMs: 30_000, callDeadlineMs: 30_000 }
        : {}),
      ...options,
    });
  const driver = scope.use(make());
  const cgroups = await openCgroups();
  const owned = scope.move();
  return {
    driver,
    tools,
    path,
    runDir,
    imagePath: artifacts.baseImage,
    codePath,
    argv: (steps) => ['/bin/bash', '/function/steps.sh', ...steps],
    ...(driver.capabilities.recover
      ? {
          nextLife: async (kept) => {
            const next = make();
            await next.prepare(kept);
            return next;
          },
        }
      : {}),
    leftovers: async () => {
      const groups = (await cgroups.list()).filter((name) => name.startsWith(`${daemonTag}.`));
      const jails = await readdir(runDir, { recursive: true }).catch(() => []);
      const mounts = (await readFile('/proc/self/mounts', 'latin1')).split('\n').filter((line) => line.includes(path));
      return [...groups, ...jails.filter((name) => name !== 'firecracker' && name !== 'placeholder'), ...mounts];
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
