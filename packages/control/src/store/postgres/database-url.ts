import { CocoreError } from '@cocore/protocol';

const PROTOCOLS = ['postgres:', 'postgresql:'];

/**
 * Where the database is: the option, else `COCORE_DATABASE_URL`; null for the one in the data directory.
 *
 * @throws CocoreError `usage`, which does not repeat what was given: there may be a password in it
 */
export function readDatabaseUrl(option: string | undefined, env: NodeJS.ProcessEnv): string | null {
  const url = option ?? env['COCORE_DATABASE_URL'] ?? '';
  if (url === '' && option === undefined) return null;
  if (URL.canParse(url) && PROTOCOLS.includes(new URL(url).protocol)) return url;
  throw new CocoreError('usage', 'the address of the database is not postgres://USER:PASSWORD@HOST:PORT/DATABASE');
}

/** As it may be printed: without the user's password. */
export function placeOf(url: string): string {
  try {
    const { host, pathname } = new URL(url);
    return `${host}${pathname}`;
  } catch {
    return 'the address that was given';
  }
}
