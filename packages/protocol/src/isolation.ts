import { z } from 'zod';

/**
 * How strong the wall around a sandbox is, from the strongest class to the weakest.
 *
 * - `microvm`: a virtual machine that the hardware keeps apart, with a kernel of its own.
 * - `gvisor`: a kernel written for the purpose stands between the function and the host's.
 * - `emulated`: a virtual machine in software. Its makers do not call emulation a wall: for development and tests.
 * - `container`: the host's kernel, shared: for code that the host's owner trusts.
 */
export const IsolationClass = z.enum(['microvm', 'gvisor', 'emulated', 'container']);
export type IsolationClass = z.infer<typeof IsolationClass>;

const STRENGTH: Readonly<Record<IsolationClass, number>> = { microvm: 3, gvisor: 2, emulated: 1, container: 0 };

/** What a function requires when nobody said otherwise: this class or a stronger one. */
export const DEFAULT_ISOLATION: IsolationClass = 'gvisor';

/** Whether a sandbox of the class `given` is strong enough where `required` is asked for. */
export function isAtLeast(given: IsolationClass, required: IsolationClass): boolean {
  return STRENGTH[given] >= STRENGTH[required];
}

/** What sandboxes are like, or have to be. */
export interface SandboxKind {
  readonly isolation: IsolationClass;
  /** They may have a network. */
  readonly egress: boolean;
}

/** Whether sandboxes such as `given` are good enough where `required` is asked for. */
export function canRun(given: SandboxKind, required: SandboxKind): boolean {
  return isAtLeast(given.isolation, required.isolation) && (given.egress || !required.egress);
}

/** The classes that satisfy `required`, in words. */
export function orBetter(required: IsolationClass): string {
  return required === IsolationClass.options[0] ? required : `${required} or better`;
}
