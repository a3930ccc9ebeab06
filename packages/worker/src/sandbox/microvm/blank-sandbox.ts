import { CocoreError } from '@cocore/protocol';
import type { BlankSandbox, SandboxSpec } from '../driver.ts';
import type { ProcessSandbox } from '../process-sandbox.ts';

/**
 * Does to a new machine what makes it wait; it is destroyed when that fails, or `signal` aborts.
 *
 * @throws CocoreError `host_unfit`, or what `signal` says
 */
export async function makeWait(sandbox: ProcessSandbox, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = () => aborted.reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort);
  try {
    signal.throwIfAborted();
    await Promise.race([work(), aborted.promise]);
  } catch (cause) {
    await sandbox.destroy();
    signal.throwIfAborted();
    const why = cause instanceof Error ? cause.message : String(cause);
    const said = sandbox.lastWord();
    const message = `a machine did not become ready: ${why}${said === '' ? '' : `; it said last: ${said}`}`;
    throw new CocoreError('host_unfit', message, { cause });
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** A machine that waits. `fill` gives it the function's drives and lets it go on. */
export function blankSandbox(sandbox: ProcessSandbox, fill: (spec: SandboxSpec) => Promise<void>): BlankSandbox {
  let filled = false;
  return {
    exited: sandbox.exited,
    fill: async (spec) => {
      filled = true;
      try {
        await fill(spec);
        return sandbox;
      } catch (error) {
        await sandbox.destroy();
        throw error;
      }
    },
    [Symbol.asyncDispose]: async () => {
      if (!filled) await sandbox.destroy();
    },
  };
}
