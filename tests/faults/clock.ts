/** Milliseconds by the host's monotonic clock: the same in every process, whatever the wall clock does. */
export const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6;
