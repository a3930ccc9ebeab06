import { isSharedSignature, signedFor } from '@cocore/protocol';
import { hash, type KeyObject } from 'node:crypto';
import { isSignedBy } from './identity.ts';

/** Ends that share a signature come one after the other. */
const MAX_ROOTS = 32;

/** The signatures of one worker's ends. One that several ends share is checked once. */
export class EndSignatures {
  readonly #key: KeyObject;
  /** Roots with their signature that are right, or are being checked; those that came last. */
  readonly #roots = new Map<string, Promise<boolean>>();

  constructor(key: KeyObject) {
    this.#key = key;
  }

  /** Whether the worker has signed the end. */
  isSigned(endStatement: string, signature: string): Promise<boolean> {
    const signed = signedFor(endStatement, signature, sha256);
    if (signed === null) return Promise.resolve(false);
    if (!isSharedSignature(signature)) return isSignedBy(this.#key, signed.statement, signed.signature);
    const root = `${signed.statement}\n${signed.signature}`;
    return this.#roots.get(root) ?? this.#check(root, signed.statement, signed.signature);
  }

  #check(root: string, statement: string, signature: string): Promise<boolean> {
    const checked = isSignedBy(this.#key, statement, signature);
    this.#roots.set(root, checked);
    const [oldest] = this.#roots.keys();
    if (this.#roots.size > MAX_ROOTS) this.#roots.delete(oldest!);
    const forget = () => {
      if (this.#roots.get(root) === checked) this.#roots.delete(root);
    };
    checked.then((isRight) => (isRight ? undefined : forget()), forget);
    return checked;
  }
}

const sha256 = (text: string): string => hash('sha256', text, 'base64url');
