import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { CocoreError, isIdOf, JoinTokenContent, type KeyRole, makeId } from '@cocore/protocol';
import type { KeyFacts, Store } from '../store/store.ts';

/** Whom a request acts for. */
export interface Caller {
  readonly keyId: string;
  readonly projectId: string;
  readonly role: KeyRole;
}

export const sha256 = (text: string | Uint8Array): Buffer => hash('sha256', text, 'buffer');
export const randomSecret = (): string => randomBytes(32).toString('base64url');

/** @returns the secret to be shown once, `ky_….…`, and what is kept of it */
export function makeKey(nowMs: number): { keyId: string; secret: string; secretHash: Uint8Array } {
  const keyId = makeId('key', nowMs, randomBytes(10));
  const random = randomSecret();
  return { keyId, secret: `${keyId}.${random}`, secretHash: sha256(random) };
}

const KEY = /^(ky_[0-9a-z]{26})\.([A-Za-z0-9_-]{43})$/;

/** The bearer of an Authorization header; null when there is none or it is of another scheme. */
export function bearerOf(header: string | undefined): string | null {
  return /^Bearer ([^\s]+)$/i.exec(header ?? '')?.[1] ?? null;
}

/** A key that another server deleted is good for this long here. */
const REMEMBER_MS = 1_000;
const MAX_REMEMBERED = 10_000;

/** Knows whose key a request carries. What the store said about a key is remembered for a second. */
export class Authenticator {
  readonly #store: Store;
  readonly #remembered = new Map<string, { readonly key: KeyFacts; readonly untilMs: number }>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** @throws CocoreError `unauthenticated` */
  async authenticate(header: string | undefined): Promise<Caller> {
    const refused = (message: string) => new CocoreError('unauthenticated', message);
    const bearer = bearerOf(header);
    if (bearer === null) throw refused('the request carries no key');
    const [, keyId, random] = KEY.exec(bearer) ?? [];
    if (keyId === undefined || random === undefined || !isIdOf('key', keyId)) throw refused('the key is not valid');
    const key = await this.#find(keyId);
    if (key === null || !timingSafeEqual(key.secretHash, sha256(random))) throw refused('the key is not valid');
    return { keyId, projectId: key.projectId, role: key.role };
  }

  /** The key was deleted. */
  forget(keyId: string): void {
    this.#remembered.delete(keyId);
  }

  async #find(keyId: string): Promise<KeyFacts | null> {
    const nowMs = performance.now();
    const remembered = this.#remembered.get(keyId);
    if (remembered !== undefined && remembered.untilMs > nowMs) return remembered.key;
    const key = await this.#store.findKey(keyId);
    if (this.#remembered.size >= MAX_REMEMBERED) this.#remembered.clear();
    if (key === null) this.#remembered.delete(keyId);
    else this.#remembered.set(keyId, { key, untilMs: nowMs + REMEMBER_MS });
    return key;
  }
}

const JOIN_TOKEN_PREFIX = 'cj_';

export function makeJoinToken(serverId: string, certificateSha256: string | null): { token: string; hash: Uint8Array } {
  const content: JoinTokenContent = { serverId, certificateSha256, secret: randomSecret() };
  const token = JOIN_TOKEN_PREFIX + Buffer.from(JSON.stringify(content)).toString('base64url');
  return { token, hash: sha256(content.secret) };
}

/**
 * What is kept of a token that a worker shows.
 *
 * @throws CocoreError `join_token_invalid` when it is no token, or another server's
 */
export function joinTokenHash(token: string, serverId: string): Uint8Array {
  const refused = (message: string) => new CocoreError('join_token_invalid', message);
  if (!token.startsWith(JOIN_TOKEN_PREFIX)) throw refused('the join token is not valid');
  let content: unknown;
  try {
    content = JSON.parse(Buffer.from(token.slice(JOIN_TOKEN_PREFIX.length), 'base64url').toString('utf8'));
  } catch {
    throw refused('the join token is not valid');
  }
  const parsed = JoinTokenContent.safeParse(content);
  if (!parsed.success) throw refused('the join token is not valid');
  if (parsed.data.serverId !== serverId) throw refused('the join token is for another server');
  return sha256(parsed.data.secret);
}
