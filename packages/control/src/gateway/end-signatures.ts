import { isSharedSignature, signedFor } from '@cocore/protocol';
import { hash, type KeyObject } from 'node:crypto';
import { isSignedBySync } from './identity.ts';

/** Ends that share a signature come one after the other. */
const MAX_ROOTS = 32;

/** The signatures of one worker's ends. One that several ends share is checked once. */
export class EndSignatures {
  readonly #key: KeyObject;
  /** Roots with their signature that are right; those that came last. */
  readonly #roots = new Set<string>();

  constructor(key: KeyObject) {
    this.#key = key;
  }

  /** Whether the worker has signed the end. */
  isSigned(endStatement: string, signature: string): boolean {
    const signed = signedFor(endStatement, signature, sha256);
    if (signed === null) return false;
    const root = `${signed.statement}\n${signed.signature}`;
    if (this.#roots.has(root)) return true;
    if (!isSignedBySync(this.#key, signed.statement, signed.signature)) return false;
    if (isSharedSignature(signature)) this.#remember(root);
    return true;
  }

  #remember(root: string): void {
    this.#roots.add(root);
    const [oldest] = this.#roots;
    if (this.#roots.size > MAX_ROOTS) this.#roots.delete(oldest!);
  }
}

const sha256 = (text: string): string => hash('sha256', text, 'base64url');
