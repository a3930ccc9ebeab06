import { execFile } from 'node:child_process';
import { copyFile, mkdir, readdir, readFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { openCgroups } from '../../src/cgroup/open.ts';
import { defaultArtifacts } from '../../src/config.ts';
import { readArtifacts } from '../../src/sandbox/microvm/artifacts.ts';
import type { SnapshotStore } from '../../src/sandbox/microvm/snapshot-store.ts';
import { QemuDriver, type QemuDriverOptions } from '../../src/sandbox/qemu/qemu-driver.ts';
import type { DriverTarget } from '../driver.conformance.ts';
import { hostSnapshots } from './host-snapshots.ts';
import { workspace } from './workspace.ts';

/** An emulated machine takes some seconds, and more where other tests want the processors too. */
const BOOT_DEADLINE_MS = 60_000;

const STEPS = fileURLToPath(new URL('steps.sh', import.meta.url));

/** Why real machines cannot be started here; false when they can. */
export function qemuSkip(): string | false {
  const path = defaultArtifacts(process.env);
  if (!existsSync(path)) return `there are no artifacts at ${path}: run npm run setup`;
  return process.geteuid?.() === 0 ? false : 'sandboxes are made by root';
}

/** The QEMU driver on this host, with a code drive that plays steps. */
export async function qemuTarget(
  daemonTag: string,
  snapshots: SnapshotStore | null = hostSnapshots(),
  options: Partial<QemuDriverOptions> = {},
): Promise<DriverTarget & { driver: QemuDriver; runDir: string }> {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const artifacts = readArtifacts(defaultArtifacts(process.env));
  const code = join(path, 'code');
  await mkdir(code);
  await copyFile(STEPS, join(code, 'steps.sh'));
  const codePath = join(path, 'code.erofs');
  await promisify(execFile)('mkfs.erofs', ['--quiet', codePath, code]);
  const { runDir = join(path, 'run') } = options;
  const make = () =>
    new QemuDriver({ artifacts, runDir, daemonTag, snapshots, bootDeadlineMs: BOOT_DEADLINE_MS, ...options });
  const driver = scope.use(make());
  const cgroups = await openCgroups();
  const owned = scope.move();
  return {
    driver,
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
      const files = await readdir(runDir).catch(() => []);
      const mounts = (await readFile('/proc/self/mounts', 'latin1')).split('\n').filter((line) => line.includes(path));
      return [...groups, ...files, ...mounts];
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
