import { execFile, spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { SandboxSpec } from '../../packages/worker/src/sandbox/driver.ts';
import type { OciRuntime } from '../../packages/worker/src/sandbox/oci/runtimes.ts';
import { PROGRAM, type StartTimes } from './first-byte.ts';

const run = promisify(execFile);

/** The runtime on a bundle, as anybody would start it from a shell: as this user, the files mounted before the clock runs. */
export async function runtimeFloor(runtime: OciRuntime, spec: SandboxSpec, directory: string): Promise<StartTimes> {
  await using scope = new AsyncDisposableStack();
  const bundle = join(directory, spec.name);
  const [root, code] = [join(bundle, 'rootfs'), join(bundle, 'code')];
  await mkdir(root, { recursive: true });
  await mkdir(code);
  scope.defer(() => rm(bundle, { recursive: true, force: true }));
  for (const [image, place] of [
    [spec.imagePath, root],
    [spec.codePath, code],
  ] as const) {
    await run('mount', ['-t', 'erofs', '-o', 'loop,ro', image, place]);
    scope.defer(() => run('umount', [place]).then(() => undefined));
  }
  await writeFile(join(bundle, 'config.json'), JSON.stringify(bundleConfig(code)));
  const name = `bench-${process.pid}-${spec.name}`;
  const flags =
    runtime.name === 'gvisor'
      ? [`--root=${bundle}/state`, '--platform=ptrace', '--network=none', '--ignore-cgroups']
      : [`--root=${bundle}/state`, '--cgroup-manager=disabled'];
  const command = [runtime.program, ...flags, 'run', '--bundle', bundle, name];
  // crun refuses a host that has both versions of control groups, so it is shown one.
  const hide = 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec "$@"';
  const [program, ...args] =
    runtime.name === 'crun' ? ['unshare', '--mount', 'sh', '-c', hide, 'sh', ...command] : command;
  const beganMs = performance.now();
  const child = spawn(program!, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise((resolve) => child.once('close', resolve));
  const firstByteMs = await new Promise<number>((resolve, reject) => {
    child.stdout.once('data', () => resolve(performance.now() - beganMs));
    child.once('error', reject);
    child.once('close', () => reject(new Error(`${runtime.name} printed nothing`)));
  });
  await exited;
  // There is no agent to be ready before the function.
  return { agentReadyMs: null, firstByteMs };
}

function bundleConfig(code: string) {
  return {
    ociVersion: '1.0.2',
    process: { user: { uid: 0, gid: 0 }, args: PROGRAM, env: ['PATH=/usr/bin:/bin'], cwd: '/' },
    root: { path: 'rootfs', readonly: true },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['mode=755'] },
      { destination: '/function', type: 'bind', source: code, options: ['bind', 'ro'] },
    ],
    linux: {
      namespaces: ['pid', 'mount', 'ipc', 'uts', 'network'].map((type) => ({ type })),
    },
  };
}
