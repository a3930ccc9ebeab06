import { isIPv4 } from 'node:net';
import { CocoreError } from '@cocore/protocol';

/** The name of an image, in full. */
export interface ImageReference {
  /** `HOST` or `HOST:PORT`. */
  readonly registry: string;
  /** `HOST/NAME`, without tag and digest. */
  readonly repository: string;
  /** `HOST/NAME:TAG` or `HOST/NAME@DIGEST`: what is asked of the registry. */
  readonly full: string;
  /** Where the registry is on this host's loopback. */
  readonly loopback: { readonly host: string; readonly port: number } | null;
}

const MAX_LENGTH = 512;
const HOST = /^(?=.*[.:]|localhost$)[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?$/;
const NAME = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/**
 * Reads a reference as Docker does: `debian` is `docker.io/library/debian:latest`; of a tag and a digest the digest counts.
 *
 * @throws CocoreError `invalid_request`
 */
export function parseReference(text: string): ImageReference {
  const bad = (why: string) =>
    new CocoreError('invalid_request', `the image ${JSON.stringify(text.slice(0, 120))} ${why}`);
  if (text.length > MAX_LENGTH) throw bad('has a name that is too long');
  const [named = '', digest, ...more] = text.split('@');
  if (more.length > 0 || (digest !== undefined && !DIGEST.test(digest))) throw bad('has a digest that is not sha256:…');
  const slash = named.indexOf('/');
  const first = slash === -1 ? '' : named.slice(0, slash);
  const hasHost = HOST.test(first);
  const rest = hasHost ? named.slice(slash + 1) : named;
  const colon = rest.lastIndexOf(':');
  const name = colon === -1 ? rest : rest.slice(0, colon);
  const tag = colon === -1 ? 'latest' : rest.slice(colon + 1);
  if (!NAME.test(name)) throw bad('has no valid name');
  if (!TAG.test(tag)) throw bad('has no valid tag');
  const port = hasHost ? /:(\d+)$/.exec(first)?.[1] : undefined;
  if (port !== undefined && !isPort(Number(port))) throw bad('has no valid port');
  const registry = !hasHost || first === 'index.docker.io' ? 'docker.io' : first;
  const path = registry === 'docker.io' && !name.includes('/') ? `library/${name}` : name;
  const repository = `${registry}/${path}`;
  return {
    registry,
    repository,
    full: digest === undefined ? `${repository}:${tag}` : `${repository}@${digest}`,
    loopback: loopbackOf(registry),
  };
}

const isPort = (port: number): boolean => port >= 1 && port <= 65_535;

function loopbackOf(registry: string): ImageReference['loopback'] {
  const [host = '', port] = registry.split(':');
  if (host !== 'localhost' && !(isIPv4(host) && host.startsWith('127.'))) return null;
  return { host: host === 'localhost' ? '127.0.0.1' : host, port: port === undefined ? 80 : Number(port) };
}
