import { type GuestFrame, ROOT_USER, SCRATCH_MIB } from '@cocore/protocol';
import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { type ChannelFailure, GuestChannel } from '../../guest/channel.ts';
import { ociConfig } from '../../guest/oci-config.ts';
import { stdinOfBytes } from '../../guest/stdin.ts';
import { deadline } from '../../host/clock.ts';
import { ConsoleRing, lastLine } from '../console-ring.ts';
import { ScratchTemplates } from '../microvm/scratch.ts';
import { IdRanges } from './id-range.ts';
import { LAUNCHER, type OciSandboxParts, startOciSandbox } from './oci-sandbox.ts';
import type { OciRuntime } from './runtimes.ts';

const TRIAL_MS = 15_000;
const MEMORY_MIB = 128;

/** What a trial found: the platform that works, or why none does. */
export type Verdict = { readonly platform: string } | { readonly platform: null; readonly reason: string };

/** Where a trial has its files and how its control group is named: whoever owns both removes what a trial that was killed left. */
export interface TrialPlace {
  readonly directory: string;
  readonly tag: string;
}

/** For a trial that belongs to no driver: what it leaves when it is killed, the host's own clean-up of temporary files removes. */
export const trialPlace = (): TrialPlace => ({
  directory: tmpdir(),
  tag: `trial${process.pid}`,
});

/** Runs a container whose only file is the launcher itself, on one platform after another until one works. */
export async function tryRuntime(
  runtime: OciRuntime,
  cgroups: CgroupHierarchy,
  { directory: parent, tag }: TrialPlace,
): Promise<Verdict> {
  await mkdir(parent, { recursive: true, mode: 0o700 });
  const directory = await mkdtemp(join(parent, 'cocore-trial-'));
  try {
    const [image, code] = [join(directory, 'image'), join(directory, 'code')];
    await mkdir(image);
    await mkdir(code);
    await copyFile(LAUNCHER, join(image, 'trial'));
    for (const name of [image, code]) await promisify(execFile)('mkfs.erofs', ['--quiet', `${name}.erofs`, name]);
    const runDir = join(directory, 'run');
    await mkdir(runDir);
    const common = { runtime, runDir, cgroups, ids: new IdRanges(), scratch: new ScratchTemplates(directory) };
    const reasons: string[] = [];
    for (const platform of runtime.platforms) {
      const reason = await run({ ...common, platform, daemonTag: tag }, directory);
      if (reason === null) return { platform };
      reasons.push(`${platform}: ${reason}`);
    }
    return { platform: null, reason: reasons.join('; ') };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Why a container does not run; null when it does. */
async function run(parts: OciSandboxParts, directory: string): Promise<string | null> {
  const [imagePath, codePath] = [join(directory, 'image.erofs'), join(directory, 'code.erofs')];
  const spec = {
    name: `trial_${parts.runtime.name}`,
    memoryMiB: MEMORY_MIB,
    cpus: 1,
    scratchMiB: SCRATCH_MIB,
    imagePath,
    codePath,
  };
  const ended = Promise.withResolvers<Extract<GuestFrame, { type: 'EXIT' | 'FAULT' }> | ChannelFailure>();
  using _late = deadline(TRIAL_MS, () => ended.resolve({ kind: 'closed', message: `no end within ${TRIAL_MS} ms` }));
  await using sandbox = await startOciSandbox(spec, new AbortController().signal, parts);
  const printed = new ConsoleRing();
  using channel = new GuestChannel(sandbox.agent, {
    started: () => undefined,
    output: (_stream, data) => printed.push(data),
    ended: ended.resolve,
    failed: ended.resolve,
  });
  const config = {
    argv: ['/trial', 'trial'],
    env: {},
    cwd: '/',
    user: ROOT_USER,
    memoryMiB: MEMORY_MIB,
    hostname: 'trial',
    hasNetwork: false,
  };
  const task = Buffer.from(JSON.stringify(ociConfig(config)));
  const greeted = channel.hello();
  greeted.catch((error: unknown) => ended.resolve({ kind: 'closed', message: (error as Error).message }));
  await Promise.race([greeted.catch(() => undefined), ended.promise]);
  channel.start(task, stdinOfBytes(new Uint8Array(0)));
  const end = await ended.promise;
  if ('type' in end && end.type === 'EXIT' && end.kind === 'exited' && end.code === 0) return null;
  const said = lastLine(printed.text()) || lastLine(sandbox.console());
  if ('type' in end && end.type === 'EXIT') return `the trial ended with ${end.kind} ${end.code}`;
  return said === '' ? end.message : `${end.message} (${said})`;
}
