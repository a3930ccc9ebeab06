import { spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Cgroup, CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { lastLine } from '../console-ring.ts';
import { GATE_PROCESSES, type NetworkPlug, type SandboxHandle, type SandboxSpec } from '../driver.ts';
import type { ScratchTemplates } from '../microvm/scratch.ts';
import { ProcessSandbox } from '../process-sandbox.ts';
import { hostConfig } from './host-config.ts';
import type { IdRanges } from './id-range.ts';
import { LauncherControl } from './launcher.ts';
import { OciGuest } from './oci-guest.ts';
import type { OciRuntime } from './runtimes.ts';

/** Built by the set-up (`make -C packages/worker/launcher`). */
export const LAUNCHER = fileURLToPath(new URL('../../../launcher/build/oci-launch', import.meta.url));
const CONTROL_FD = 3;
const RESULT_FD = 4;
const ARTIFACTS_FD = 5;
/** As the container's own limit, which the runtime is not asked to keep. */
const MAX_PROCESSES = 1024;

export interface OciSandboxParts {
  readonly runtime: OciRuntime;
  readonly platform: string;
  readonly runDir: string;
  readonly daemonTag: string;
  readonly cgroups: CgroupHierarchy;
  readonly ids: IdRanges;
  readonly scratch: ScratchTemplates;
}

const plugOf = ({ procsFiles }: Cgroup): NetworkPlug => ({ kind: 'veth', owner: 0, procsFiles });

/** Makes a sandbox: its jail, and in the agent's place an `OciGuest`. When it rejects, nothing is left. */
export async function startOciSandbox(
  spec: SandboxSpec,
  signal: AbortSignal,
  parts: OciSandboxParts,
): Promise<ProcessSandbox> {
  const { runtime, platform, cgroups } = parts;
  signal.throwIfAborted();
  await using scope = new AsyncDisposableStack();
  const { base } = scope.use(await parts.ids.take());
  const directory = join(parts.runDir, spec.name);
  const bundle = join(directory, 'bundle');
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  await mkdir(bundle, { recursive: true });
  await mkdir(join(directory, 'root'));
  await parts.scratch.write(join(directory, 'scratch'), spec.scratchMiB, 0);
  const cgroup = await cgroups.create(`${parts.daemonTag}.${spec.name}`);
  scope.defer(() => cgroup.remove());
  await cgroup.limit({
    memoryBytes: (spec.memoryMiB + runtime.overheadMiB) * 2 ** 20,
    pids: MAX_PROCESSES + runtime.threads + (spec.network === undefined ? 0 : GATE_PROCESSES),
    cpus: spec.cpus,
  });
  const attached = spec.network === undefined ? null : scope.use(await spec.network.attach(plugOf(cgroup)));
  signal.throwIfAborted();
  const hasNetwork = attached !== null;
  const kill = runtime.kill(platform, hasNetwork);
  const command = [runtime.program, ...runtime.run(platform, hasNetwork)];
  const child = spawn(LAUNCHER, [...command, ...(kill === null ? [] : ['--', runtime.program, ...kill])], {
    cwd: '/',
    stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe'],
    env: {
      LAUNCH_DAEMON: String(process.pid),
      LAUNCH_CGROUPS: cgroup.procsFiles.join('\n'),
      LAUNCH_DIRECTORY: directory,
      LAUNCH_IMAGE: spec.imagePath,
      LAUNCH_CODE: spec.codePath,
      LAUNCH_BASE: String(base),
      ...(attached === null ? {} : { LAUNCH_NETWORK: attached.namespacePath }),
    },
  });
  const sockets = child.stdio as readonly unknown[];
  const [result, artifacts] = [sockets[RESULT_FD] as Duplex, sockets[ARTIFACTS_FD] as Duplex];
  // What is in them when the launcher has ended was not given whole.
  child.once('exit', () => [result, artifacts].map((socket) => socket.destroy()));
  const [agent, stream] = duplexPair();
  const guest = scope.use(
    new OciGuest({
      stream,
      directory,
      left: { result, artifacts },
      cgroup,
      agentVersion: `${runtime.name}/${platform}`,
      writeBundle: (task) => writeFile(join(bundle, 'config.json'), hostConfig(task, runtime)),
    }),
  );
  const control = new LauncherControl(child.stdio[CONTROL_FD] as Duplex, (news) => guest.launcherSays(news));
  guest.attach(control);
  const handle: SandboxHandle = { version: 1, driver: runtime.name, name: spec.name };
  const sandbox = new ProcessSandbox({ handle, process: child, agent, cgroup, owned: scope.move() });
  // What it still said is read before its end is.
  child.once('close', () => void guest.launcherEnded(lastLine(sandbox.console()) || 'the launcher was killed'));
  child.once('error', (error) => void guest.launcherEnded(`${LAUNCHER} does not run: ${error.message}`));
  return sandbox;
}
