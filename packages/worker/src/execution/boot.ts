import { CocoreError } from '@cocore/protocol';
import type { Logger } from 'pino';
import { GuestChannel, type GuestListener } from '../guest/channel.ts';
import { awakeClock, deadline } from '../host/clock.ts';
import { lastLine } from '../sandbox/console-ring.ts';
import type { Sandbox, SandboxDriver, SandboxSpec } from '../sandbox/driver.ts';

/** A sandbox whose agent has answered. Disposing it ends the conversation, then the sandbox. */
export interface Booted extends AsyncDisposable {
  readonly sandbox: Sandbox;
  readonly channel: GuestChannel;
}

export interface BootParts {
  readonly driver: SandboxDriver;
  readonly log: Logger;
  readonly onBootRetry: () => void;
}

/** A sandbox that did not become ready is destroyed and started once more: emulated machines hang at boot now and then. */
const MAX_BOOTS = 2;

/**
 * Starts a sandbox and waits for its agent.
 *
 * @throws the signal's reason when it aborts; CocoreError `host_unfit` when no boot became ready. Nothing is left then.
 */
export async function boot(
  spec: SandboxSpec,
  listener: GuestListener,
  signal: AbortSignal,
  parts: BootParts,
): Promise<Booted> {
  for (let count = 1; ; count += 1) {
    try {
      return await bootOnce(spec, listener, signal, parts);
    } catch (error) {
      signal.throwIfAborted();
      if (count === MAX_BOOTS) throw error;
      parts.log.warn(
        { sandbox: spec.name, why: messageOf(error) },
        'a sandbox did not become ready and is started again',
      );
      parts.onBootRetry();
    }
  }
}

async function bootOnce(
  spec: SandboxSpec,
  listener: GuestListener,
  signal: AbortSignal,
  { driver, log }: BootParts,
): Promise<Booted> {
  await using scope = new AsyncDisposableStack();
  const beganMs = awakeClock();
  const sandbox = scope.use(await driver.start(spec, signal));
  const channel = scope.use(new GuestChannel(sandbox.agent, listener));
  try {
    const agentVersion = await answer(() => channel.hello(), driver.capabilities.bootDeadlineMs, signal);
    log.debug({ sandbox: spec.name, agentVersion, bootMs: Math.round(awakeClock() - beganMs) }, 'agent ready');
  } catch (cause) {
    signal.throwIfAborted();
    const said = sandbox.console();
    log.debug({ sandbox: spec.name, console: said.slice(-4000) }, 'the console of a failed boot');
    const why = `a sandbox did not become ready: ${messageOf(cause)}; its console ends: ${lastLine(said)}`;
    throw new CocoreError('host_unfit', why, { cause });
  }
  const owned = scope.move();
  return { sandbox, channel, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** What the agent answers to a greeting. @throws what `signal` says, or Error when it is late */
export async function answer(greet: () => Promise<string>, deadlineMs: number, signal: AbortSignal): Promise<string> {
  const given = Promise.withResolvers<never>();
  using _deadline = deadline(
    deadlineMs,
    () => given.reject(new Error(`its agent did not answer within ${deadlineMs} ms`)),
    awakeClock,
  );
  const onAbort = () => given.reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort);
  try {
    signal.throwIfAborted();
    return await Promise.race([greet(), given.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
