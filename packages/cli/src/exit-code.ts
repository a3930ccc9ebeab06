import type { ExecutionRecord } from '@cocore/protocol';

const TIMEOUT = 124;
const PLATFORM_FAULT = 125;
const CANCELLED = 130;
const KILLED = 128;
const FAILED = 1;
const SIGKILL = 9;

/**
 * The exit code of `cocore run`: the function's own, or what a shell says of the like: 128 + n for a signal, 124 for a
 * timeout, 130 for a cancellation, 125 when the platform failed it; 1 when it succeeded and what it left cannot be taken.
 */
export function exitCodeOf(record: ExecutionRecord): number {
  if (record.exitCode !== null) return record.exitCode;
  if (record.reason === 'oom') return KILLED + SIGKILL;
  if (record.signal !== null) return KILLED + record.signal;
  if (record.state === 'timeout') return TIMEOUT;
  if (record.state === 'cancelled') return CANCELLED;
  if (record.reason === 'result_invalid' || record.reason === 'artifacts_too_large') return FAILED;
  return PLATFORM_FAULT;
}
