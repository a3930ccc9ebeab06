import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where the double finds what it is made of: outside of a jail the checkout, inside what its jailer bound there. */
export const JAILED = '/double';

export const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

/** The official description, which stays beside the checkout. */
export const OFFICIAL_DESCRIPTION = join(CHECKOUT, '../shared/firecracker/firecracker-v1.16.1.yaml');

export const VERSION = '1.16.1';

/** What the jailer's double tells the VMM's, in `/double/settings.json`. */
export interface Settings {
  readonly qemu: string;
  readonly tscKhz: number | null;
}

/** Why the double cannot be used here; false when it can. */
export function doubleSkip(): string | false {
  return existsSync(OFFICIAL_DESCRIPTION) ? false : `Firecracker’s API description is not at ${OFFICIAL_DESCRIPTION}`;
}
