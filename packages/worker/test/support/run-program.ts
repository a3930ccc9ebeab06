import {
  AGENT_PING_MS,
  ARTIFACTS_PATH,
  type AttemptStream,
  type GuestFrame,
  type OfStreams,
  ofStreams,
  RESULT_PATH,
  ROOT_USER,
} from '@cocore/protocol';
import { pino } from 'pino';
import { boot, type Booted } from '../../src/execution/boot.ts';
import { type ChannelFailure, type GuestChannel } from '../../src/guest/channel.ts';
import { ociConfig } from '../../src/guest/oci-config.ts';
import { stdinOfBytes } from '../../src/guest/stdin.ts';
import type { SandboxDriver, SandboxSpec } from '../../src/sandbox/driver.ts';

type End = Extract<GuestFrame, { type: 'EXIT' | 'FAULT' }> | ChannelFailure;

export const silent = pino({ level: 'silent' });

/** A program under way in a sandbox. Disposing it destroys the sandbox. */
export interface RunningProgram extends AsyncDisposable {
  readonly booted: Booted;
  readonly started: Promise<void>;
  readonly ended: Promise<End>;
  readonly output: OfStreams<Buffer[]>;
}

/** Starts a sandbox and a program in it; all output is taken and acknowledged. */
export async function startProgram(
  driver: SandboxDriver,
  spec: SandboxSpec,
  argv: readonly string[],
  stdin: Uint8Array = new Uint8Array(0),
  artifactsLimit = 2_000_000,
  files: readonly { readonly path: string; readonly data: Uint8Array }[] = [],
): Promise<RunningProgram> {
  const started = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<End>();
  const output = ofStreams<Buffer[]>(() => []);
  const received = ofStreams(() => 0);
  let channel: GuestChannel | null = null;
  const listener = {
    started: () => started.resolve(),
    output: (stream: AttemptStream, data: Uint8Array) => {
      output[stream].push(Buffer.from(data));
      received[stream] += data.length;
      channel?.acknowledge(stream, received[stream]);
    },
    ended: (frame: Extract<GuestFrame, { type: 'EXIT' | 'FAULT' }>) => ended.resolve(frame),
    failed: (failure: ChannelFailure) => ended.resolve(failure),
  };
  const booted = await boot(spec, listener, new AbortController().signal, {
    driver,
    log: silent,
    onBootRetry: () => undefined,
  });
  channel = booted.channel;
  const env = {
    PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/work',
    LANG: 'C.UTF-8',
    COCORE_RESULT: RESULT_PATH,
    COCORE_OUT: ARTIFACTS_PATH,
  };
  const config = ociConfig({
    argv,
    env,
    cwd: '/work',
    user: ROOT_USER,
    memoryMiB: spec.memoryMiB,
    hostname: 'function',
    hasNetwork: spec.network !== undefined,
  });
  const given = files.map(({ path, data }) => ({ path, user: 0, group: 0, content: stdinOfBytes(data) }));
  channel.start(Buffer.from(JSON.stringify(config)), stdinOfBytes(stdin), artifactsLimit, given);
  // A guest that is not pinged ends itself.
  const pings = setInterval(() => channel.ping(), AGENT_PING_MS);
  return {
    booted,
    started: started.promise,
    ended: ended.promise,
    output,
    [Symbol.asyncDispose]: () => {
      clearInterval(pings);
      return booted[Symbol.asyncDispose]();
    },
  };
}

export interface Finished extends OfStreams<Buffer> {
  readonly end: End;
}

/** Runs a program to its end, and destroys its sandbox. */
export async function runProgram(...args: Parameters<typeof startProgram>): Promise<Finished> {
  await using program = await startProgram(...args);
  const end = await program.ended;
  return { end, ...ofStreams((stream) => Buffer.concat(program.output[stream])) };
}
