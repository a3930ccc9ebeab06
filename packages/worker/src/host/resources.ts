import { readFileSync, statfsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { HostResources } from '../capacity/lease.ts';

/** One value of `/proc/meminfo`, in MiB. */
function memoryMiB(meminfo: string, key: string): number {
  const match = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(meminfo);
  if (match === null) throw new Error(`/proc/meminfo has no ${key}`);
  return Math.floor(Number(match[1]) / 1024);
}

/** CPUs are those that this process may use; disk is that of the file system that holds `directory`. */
export function hostResources(directory: string, procDir = '/proc'): HostResources {
  const meminfo = readFileSync(`${procDir}/meminfo`, 'latin1');
  const disk = statfsSync(directory);
  const diskMiB = (blocks: number) => Math.floor((blocks * disk.bsize) / 2 ** 20);
  const cpus = availableParallelism();
  return {
    total: { cpus, memoryMiB: memoryMiB(meminfo, 'MemTotal'), diskMiB: diskMiB(disk.blocks) },
    free: { cpus, memoryMiB: memoryMiB(meminfo, 'MemAvailable'), diskMiB: diskMiB(disk.bavail) },
  };
}
