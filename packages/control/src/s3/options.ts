import { CocoreError } from '@cocore/protocol';

/** A bucket of an S3-compatible store, addressed by path. */
export interface S3Options {
  readonly endpoint: URL;
  /** How workers reach the same store; null where they do not, and read through the control server. */
  readonly publicEndpoint: URL | null;
  readonly region: string;
  readonly bucket: string;
  /** Empty, or ending in `/`. */
  readonly prefix: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string | null;
}

const PLACE = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([A-Za-z0-9._/-]*))?$/;

/**
 * What a flag says, `s3://BUCKET/PREFIX`, and the environment.
 *
 * @throws CocoreError `usage`, `insecure_refused`
 */
export function readS3Options(flag: string, place: string, env: NodeJS.ProcessEnv): S3Options {
  const [, bucket, path] = PLACE.exec(place) ?? [];
  if (bucket === undefined) {
    throw new CocoreError('usage', `${flag} ${place} is not s3://BUCKET/PREFIX; letters, digits and . _ / - are taken`);
  }
  const segments = (path ?? '').split('/').filter((segment) => segment !== '');
  if (segments.some((segment) => segment === '.' || segment === '..')) {
    throw new CocoreError('usage', `${flag} ${place} has . or .. in its prefix`);
  }
  const region = given(env, 'AWS_REGION') ?? given(env, 'AWS_DEFAULT_REGION') ?? 'us-east-1';
  const endpoint = given(env, 'COCORE_S3_ENDPOINT') ?? `https://s3.${region}.amazonaws.com`;
  const publicEndpoint = given(env, 'COCORE_S3_PUBLIC_ENDPOINT');
  return {
    endpoint: endpointOf('COCORE_S3_ENDPOINT', endpoint),
    publicEndpoint: publicEndpoint === null ? null : endpointOf('COCORE_S3_PUBLIC_ENDPOINT', publicEndpoint),
    region,
    bucket,
    prefix: segments.map((segment) => `${segment}/`).join(''),
    accessKeyId: needed(flag, env, 'AWS_ACCESS_KEY_ID'),
    secretAccessKey: needed(flag, env, 'AWS_SECRET_ACCESS_KEY'),
    sessionToken: given(env, 'AWS_SESSION_TOKEN'),
  };
}

function endpointOf(name: string, text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  const isPlain = url?.protocol === 'http:';
  if (
    url === null ||
    (!isPlain && url.protocol !== 'https:') ||
    url.pathname !== '/' ||
    url.search !== '' ||
    url.username !== ''
  ) {
    throw new CocoreError('usage', `${name} is not https://HOST:PORT`);
  }
  if (isPlain && !/^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(url.hostname)) {
    throw new CocoreError('insecure_refused', `${name} would carry what is stored in plain text to another machine`);
  }
  return url;
}

function given(env: NodeJS.ProcessEnv, name: string): string | null {
  const value = env[name];
  return value === undefined || value === '' ? null : value;
}

function needed(flag: string, env: NodeJS.ProcessEnv, name: string): string {
  const value = given(env, name);
  if (value === null) throw new CocoreError('usage', `${flag} s3:// needs ${name} in the environment`);
  return value;
}
