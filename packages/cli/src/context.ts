import { readFileSync } from 'node:fs';
import tls from 'node:tls';
import { CocoreClient } from '@cocore/client';
import { CocoreError } from '@cocore/protocol';
import { CredentialsStore } from './credentials.ts';
import { credentialsDir } from './paths.ts';

const DEFAULT_URL = 'http://127.0.0.1:7733';

const isLoopback = (host: string) => host === 'localhost' || host === '[::1]' || /^127(?:\.\d+){3}$/.test(host);

function serverUrl(env: NodeJS.ProcessEnv, store: CredentialsStore): string {
  if (env['COCORE_URL']) return env['COCORE_URL'].replace(/\/+$/, '');
  const known = store.all().map(({ url }) => url);
  if (known.length <= 1 || known.includes(DEFAULT_URL)) return known.length === 1 ? known[0]! : DEFAULT_URL;
  throw new CocoreError('usage', `there are keys for ${known.sort().join(' and ')}; name one in COCORE_URL`);
}

/**
 * The client that the environment asks for: `COCORE_URL`, `COCORE_API_KEY`, `COCORE_CA_FILE`; without them, the server
 * that `cocore dev` runs here.
 *
 * @throws CocoreError `usage`, `key_missing`, `insecure_refused`, `file_unreadable`
 */
export function connect(env: NodeJS.ProcessEnv): CocoreClient {
  const store = new CredentialsStore(credentialsDir(env));
  const url = serverUrl(env, store);
  if (!URL.canParse(url)) throw new CocoreError('usage', `COCORE_URL is not an address: ${url}`);
  const { protocol, hostname, origin, href, username, password } = new URL(url);
  if (username !== '' || password !== '')
    throw new CocoreError('usage', 'COCORE_URL must not hold a name or a password');
  if (protocol !== 'http:' && protocol !== 'https:')
    throw new CocoreError('usage', `COCORE_URL is not http or https: ${url}`);
  if (href !== `${origin}/`) throw new CocoreError('usage', `COCORE_URL must end after host and port: ${url}`);
  if (protocol === 'http:' && !isLoopback(hostname) && env['COCORE_INSECURE'] !== '1') {
    throw new CocoreError('insecure_refused', `the key would go to ${url} in the clear (COCORE_INSECURE=1 allows it)`);
  }
  const apiKey = env['COCORE_API_KEY'] || store.find(url)?.apiKey;
  if (apiKey === undefined) throw new CocoreError('key_missing', `there is no key for ${url}`);
  trust(env['COCORE_CA_FILE']);
  return new CocoreClient({ url, apiKey });
}

function trust(path: string | undefined): void {
  if (path === undefined || path === '') return;
  let certificate: string;
  try {
    certificate = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CocoreError('file_unreadable', `COCORE_CA_FILE ${path} cannot be read`, { cause });
  }
  if (!certificate.includes('-----BEGIN CERTIFICATE-----')) {
    throw new CocoreError('file_unreadable', `COCORE_CA_FILE ${path} holds no certificate`);
  }
  tls.setDefaultCACertificates([...tls.getCACertificates('default'), certificate]);
}
