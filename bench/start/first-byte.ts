import type { Duplex } from 'node:stream';
import { ROOT_USER } from '@cocore/protocol';
import { GuestChannel } from '../../packages/worker/src/guest/channel.ts';
import { ociConfig } from '../../packages/worker/src/guest/oci-config.ts';
import { stdinOfBytes } from '../../packages/worker/src/guest/stdin.ts';
import type { SandboxDriver, SandboxSpec } from '../../packages/worker/src/sandbox/driver.ts';

/** Both from the moment in which the worker has the task. */
export interface StartTimes {
  /** Until the agent has answered the greeting; null where there is none. */
  readonly agentReadyMs: number | null;
  /** Until the first byte that the function wrote. */
  readonly firstByteMs: number;
}

/** What is started everywhere: a shell that prints a line. */
export const PROGRAM = ['/bin/sh', '/function/hello.sh'];

/** Greets the agent of a sandbox that was asked for at `beganMs`, gives it the program, and waits for its first byte. */
export async function talk(agent: Duplex, spec: SandboxSpec, beganMs: number): Promise<StartTimes> {
  const first = Promise.withResolvers<number>();
  const failed = (failure: unknown) => first.reject(new Error(`no output: ${JSON.stringify(failure)}`));
  using channel = new GuestChannel(agent, {
    started: () => undefined,
    output: () => first.resolve(performance.now()),
    ended: failed,
    failed,
  });
  await channel.hello();
  const readyMs = performance.now();
  const config = ociConfig({
    argv: PROGRAM,
    env: { PATH: '/usr/bin:/bin' },
    user: ROOT_USER,
    cwd: '/work',
    memoryMiB: spec.memoryMiB,
    hostname: 'function',
    hasNetwork: false,
  });
  channel.start(Buffer.from(JSON.stringify(config)), stdinOfBytes(new Uint8Array(0)));
  return { agentReadyMs: readyMs - beganMs, firstByteMs: (await first.promise) - beganMs };
}

export async function firstByteOf(driver: SandboxDriver, spec: SandboxSpec): Promise<StartTimes> {
  const beganMs = performance.now();
  await using sandbox = await driver.start(spec, new AbortController().signal);
  return await talk(sandbox.agent, spec, beganMs);
}
