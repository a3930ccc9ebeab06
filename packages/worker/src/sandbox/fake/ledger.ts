import { appendFileSync } from 'node:fs';

/** One line of a ledger. */
export interface LedgerRow {
  /** `begun` and `gone` are the sandbox's; `effect` is what its function does to the world. */
  readonly what: 'begun' | 'gone' | 'effect';
  readonly attemptId: string;
  /** By the host's monotonic clock, which every process of the host shares. */
  readonly atMs: number;
  readonly pid: number;
  /** Of an effect. */
  readonly text: string;
}

export type WriteLedger = (row: Pick<LedgerRow, 'what' | 'attemptId' | 'text'>) => void;

/**
 * A file outside of CoCore in which fake functions leave their side effects, a JSON line each. What is written there stays, however
 * the daemon ends; several daemons may share one file.
 */
export function openLedger(path: string): WriteLedger {
  return (row) => {
    const whole: LedgerRow = { ...row, atMs: Number(process.hrtime.bigint()) / 1e6, pid: process.pid };
    appendFileSync(path, `${JSON.stringify(whole)}\n`);
  };
}
