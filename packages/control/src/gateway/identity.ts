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

/** Runs on a thread of its own: a signature costs about as much as the rest of a report. */
export function isSignedBy(key: KeyObject, statement: string, signature: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    verify(null, Buffer.from(statement), key, Buffer.from(signature, 'base64url'), (error, valid) => {
      if (error === null) resolve(valid);
      else reject(error);
    });
  });
}
