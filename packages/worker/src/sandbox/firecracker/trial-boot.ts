import { awakeClock, deadline } from '../../host/clock.ts';
import { failed, type HostCheck, passed } from '../../host/check.ts';
import { GuestChannel, type GuestListener } from '../../guest/channel.ts';
import { lastLine } from '../console-ring.ts';
import type { SandboxDriver, SandboxSpec } from '../driver.ts';

/** A guest under KVM answers in a fraction of this. */
export const TRIAL_DEADLINE_MS = 5_000;

const unheard: GuestListener = {
  started: () => undefined,
  output: () => undefined,
  ended: () => undefined,
  failed: () => undefined,
};

/**
 * Starts one machine and waits for its agent's first word: `/dev/kvm` may be there and yet run no guest, on hosts that are themselves virtual.
 * The driver is prepared; `spec` may name any two files, since no task mounts them. Nothing is left.
 */
export async function trialBoot(
  driver: SandboxDriver,
  spec: SandboxSpec,
  deadlineMs = TRIAL_DEADLINE_MS,
): Promise<HostCheck> {
  const name = 'guest under Firecracker';
  const remedy = 'Run it on hardware, or on a host with nested virtualization that works; or use another isolation.';
  const over = new AbortController();
  using _deadline = deadline(
    deadlineMs,
    () => over.abort(new Error(`no guest answers within ${deadlineMs} ms`)),
    awakeClock,
  );
  const began = awakeClock();
  try {
    await using sandbox = await driver.start(spec, over.signal);
    using channel = new GuestChannel(sandbox.agent, unheard);
    const late = new Promise<never>((_, reject) => {
      over.signal.addEventListener('abort', () => reject(over.signal.reason as Error), { once: true });
    });
    late.catch(() => undefined);
    try {
      await Promise.race([channel.hello(), late]);
    } catch (cause) {
      const said = lastLine(sandbox.console());
      throw new Error(`${(cause as Error).message}${said === '' ? '' : `; its console ends: ${said}`}`, { cause });
    }
    return passed(name, `its agent answered after ${Math.round(awakeClock() - began)} ms`);
  } catch (error) {
    return failed(name, error instanceof Error ? error.message : String(error), remedy);
  }
}
