import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';

/** The rate that the host's kernel found for its time stamp counter; the finer calibration wins. */
export function tscKhzOfLog(log: string): number | null {
  const rates = [...log.matchAll(/tsc: (?:Detected|Refined TSC clocksource calibration:) ([\d.]+) MHz/g)];
  const last = rates.at(-1)?.[1];
  return last === undefined ? null : Math.round(Number(last) * 1000);
}

/**
 * What `/proc/cpuinfo` tells of the counter's rate: in a virtual machine that is told it, every CPU shows it as its frequency;
 * elsewhere that is the current frequency, and the nominal one in the model's name is nearer.
 */
export function tscKhzOfCpuinfo(cpuinfo: string): number | null {
  const mhz = /^cpu MHz\s*:\s*([\d.]+)$/m.exec(cpuinfo)?.[1];
  const nominal = /^model name\s*:.*@ ([\d.]+)\s?GHz/m.exec(cpuinfo)?.[1];
  if (mhz !== undefined && /^flags\s*:.*\btsc_known_freq\b/m.test(cpuinfo)) return Math.round(Number(mhz) * 1000);
  if (nominal !== undefined) return Math.round(Number(nominal) * 1_000_000);
  return mhz === undefined ? null : Math.round(Number(mhz) * 1000);
}

/**
 * The rate of the host's time stamp counter in kHz, which an emulated machine's kernel must be told; null when it cannot be found.
 * The kernel's log is asked first (its ring, then the journal, which keeps what the ring has lost), then `/proc/cpuinfo`.
 */
export async function hostTscKhz(): Promise<number | null> {
  const run = promisify(execFile);
  const logs: [string, string[]][] = [
    ['dmesg', []],
    ['journalctl', ['--dmesg', '--boot', '--output=cat', '--no-pager', '--grep=tsc:']],
  ];
  for (const [program, args] of logs) {
    const log = await run(program, args, { timeout: 5_000, maxBuffer: 16 * 2 ** 20 }).then(
      ({ stdout }) => stdout,
      () => '',
    );
    const khz = tscKhzOfLog(log);
    if (khz !== null) return khz;
  }
  return tscKhzOfCpuinfo(readFileSync('/proc/cpuinfo', 'latin1'));
}
