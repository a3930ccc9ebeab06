import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { openCgroups } from '../../src/cgroup/open.ts';
import { defaultArtifacts } from '../../src/config.ts';
import { readArtifacts } from '../../src/sandbox/microvm/artifacts.ts';
import { OciDriver } from '../../src/sandbox/oci/oci-driver.ts';
import { LAUNCHER } from '../../src/sandbox/oci/oci-sandbox.ts';
import type { OciRuntime } from '../../src/sandbox/oci/runtimes.ts';
import type { DriverTarget } from '../driver.conformance.ts';
import { workspace } from './workspace.ts';

const STEPS = fileURLToPath(new URL('steps.sh', import.meta.url));

/** Why containers of this runtime cannot be started here; false when they can. */
export function ociSkip(runtime: OciRuntime): string | false {
  if (process.geteuid?.() !== 0) return 'sandboxes are made by root';
  for (const path of [defaultArtifacts(process.env), LAUNCHER, runtime.program]) {
    if (!existsSync(path)) return `${path} is not there: run npm run setup`;
  }
  return false;
}

/** The OCI driver with a runtime on this host, with a code drive that plays steps. */
export async function ociTarget(
  runtime: OciRuntime,
  daemonTag: string,
): Promise<DriverTarget & { driver: OciDriver; runDir: string; path: string }> {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const { baseImage } = readArtifacts(defaultArtifacts(process.env));
  const code = join(path, 'code');
  await mkdir(code);
  await copyFile(STEPS, join(code, 'steps.sh'));
  const codePath = join(path, 'code.erofs');
  await promisify(execFile)('mkfs.erofs', ['--quiet', codePath, code]);
  const runDir = join(path, 'run');
  const driver = scope.use(new OciDriver({ runtime, runDir, daemonTag }));
  const cgroups = await openCgroups();
  const owned = scope.move();
  return {
    driver,
    runDir,
    path,
    imagePath: baseImage,
    codePath,
    argv: (steps) => ['/bin/bash', '/function/steps.sh', ...steps],
    leftovers: async () => {
      const groups = (await cgroups.list()).filter((name) => name.startsWith(`${daemonTag}.`));
      const files = await readdir(runDir).catch(() => []);
      const mounts = (await readFile('/proc/self/mounts', 'latin1')).split('\n').filter((line) => line.includes(path));
      return [...groups, ...files, ...mounts, ...(await loopsBelow(path))];
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Loop devices over files in a directory. */
export async function loopsBelow(path: string): Promise<string[]> {
  const devices = (await readdir('/sys/block')).filter((name) => name.startsWith('loop'));
  const files = await Promise.all(
    devices.map((name) => readFile(`/sys/block/${name}/loop/backing_file`, 'latin1').catch(() => '')),
  );
  return files.map((file) => file.trim()).filter((file) => file.startsWith(path));
}
