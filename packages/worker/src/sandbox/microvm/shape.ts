/** The guest's kernel, initial file system, agent and runtime: what a machine needs beyond the function's own memory. */
export const GUEST_OVERHEAD_MIB = 96;
/** The guest kernel's 64 bytes for each page of 4 KiB, and what else it sizes by the memory it finds. */
export const GUEST_OVERHEAD_RATIO = 1 / 48;

/** The memory of the whole machine for a function of `memoryMiB`. */
export function machineMemoryMiB(memoryMiB: number): number {
  return Math.ceil(memoryMiB * (1 + GUEST_OVERHEAD_RATIO)) + GUEST_OVERHEAD_MIB;
}
