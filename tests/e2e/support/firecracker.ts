import { fileURLToPath } from 'node:url';

const DOUBLE = fileURLToPath(new URL('../../firecracker-double/bin/', import.meta.url));

/** Whether the environment names the real programs. */
const isReal = process.env['COCORE_FIRECRACKER'] !== undefined && process.env['COCORE_JAILER'] !== undefined;

/**
 * The environment in which a worker finds Firecracker: the real one where this process was told of one, else the double, which is slower
 * and larger.
 */
export const FIRECRACKER: Readonly<Record<string, string>> = isReal
  ? {}
  : {
      COCORE_FIRECRACKER: `${DOUBLE}firecracker`,
      COCORE_JAILER: `${DOUBLE}jailer`,
      COCORE_BOOT_DEADLINE_MS: '60000',
      COCORE_VMM_OVERHEAD_MIB: '320',
    };
