import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { CocoreError } from '@cocore/protocol';

/** @throws CocoreError `signature_invalid` */
export function ed25519Key(publicKey: string): KeyObject {
  try {
    return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' });
  } catch (cause) {
    throw new CocoreError('signature_invalid', 'the public key is not an Ed25519 key', { cause });
  }
}

/** For who is not known yet: it runs on a thread of its own, so that strangers do not hold up others. */
export function isSignedBy(key: KeyObject, statement: string, signature: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    verify(null, Buffer.from(statement), key, Buffer.from(signature, 'base64url'), (error, valid) => {
      if (error === null) resolve(valid);
      else reject(error);
    });
  });
}

/** As `isSignedBy`, here and now: to wake a thread and to be woken by it costs more than half of the check again, and time. */
export const isSignedBySync = (key: KeyObject, statement: string, signature: string): boolean =>
  verify(null, Buffer.from(statement), key, Buffer.from(signature, 'base64url'));
