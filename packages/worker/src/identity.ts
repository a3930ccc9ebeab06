import { type AttemptEnded, CocoreError, endStatement, signedFor, signEnds, WorkerId } from '@cocore/protocol';
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hash,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto';
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';

const Joined = z.strictObject({
  serverId: z.string().min(1),
  workerId: WorkerId,
  /** SHA-256 of the server's certificate in DER, hexadecimal; null when the system's authorities vouch for it. */
  certificateSha256: z.string().nullable(),
  /** Of the server's store, as the last welcome told it. */
  incarnation: z.string().min(1).optional(),
});
export type Joined = z.infer<typeof Joined>;

const IdentityFile = z.strictObject({
  version: z.literal(1),
  /** PKCS #8, PEM. */
  privateKey: z.string(),
  joined: Joined.nullable(),
});

/**
 * Who this worker is: a key pair that it made itself, and the server that it joined. Kept in `identity.json` (0600) in the data
 * directory, which the daemon has locked.
 */
export class Identity {
  readonly publicKey: string;
  readonly #path: string;
  readonly #key: KeyObject;
  #joined: Joined | null;

  private constructor(path: string, key: KeyObject, joined: Joined | null) {
    this.#path = path;
    this.#key = key;
    this.#joined = joined;
    const jwk = key.export({ format: 'jwk' });
    if (jwk.x === undefined) throw new CocoreError('file_unreadable', `${path} does not hold an Ed25519 key`);
    this.publicKey = jwk.x;
  }

  /** Reads the identity, or makes one. @throws CocoreError `file_unreadable` */
  static open(dataDir: string): Identity {
    const path = join(dataDir, 'identity.json');
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (cause) {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') {
        const identity = new Identity(path, generateKeyPairSync('ed25519').privateKey, null);
        identity.#save();
        return identity;
      }
      throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
    }
    try {
      const file = IdentityFile.parse(JSON.parse(text));
      return new Identity(path, createPrivateKey(file.privateKey), file.joined);
    } catch (cause) {
      throw new CocoreError('file_unreadable', `${path} is not an identity`, { cause });
    }
  }

  get joined(): Joined | null {
    return this.#joined;
  }

  /** Short and the same in every life of the daemon; what it owns on the host (control groups) carries it. */
  get daemonTag(): string {
    return createHash('sha256').update(this.publicKey).digest('hex').slice(0, 12);
  }

  /** base64url, 86 characters. */
  sign(statement: string): string {
    return sign(null, Buffer.from(statement), this.#key).toString('base64url');
  }

  /** What each of the ends carries as its signature. */
  signEnds(endStatements: readonly string[]): string[] {
    return signEnds(endStatements, sha256, (statement) => this.sign(statement));
  }

  /** Whether this key has signed the end. */
  hasSigned(ended: AttemptEnded): boolean {
    const signed = signedFor(endStatement(ended), ended.signature, sha256);
    if (signed === null) return false;
    const signature = Buffer.from(signed.signature, 'base64url');
    return verify(null, Buffer.from(signed.statement), createPublicKey(this.#key), signature);
  }

  /** Remembers the server for good. */
  join(joined: Joined): void {
    this.#joined = joined;
    this.#save();
  }

  #save(): void {
    const privateKey = this.#key.export({ format: 'pem', type: 'pkcs8' }).toString();
    const content: z.infer<typeof IdentityFile> = { version: 1, privateKey, joined: this.#joined };
    const temporary = `${this.#path}.new`;
    withFile(temporary, 'w', (file) => {
      writeFileSync(file, `${JSON.stringify(content, null, 2)}\n`);
      fsyncSync(file);
    });
    renameSync(temporary, this.#path);
    // The name too: a join token lets one key in, once.
    withFile(dirname(this.#path), 'r', fsyncSync);
  }
}

const sha256 = (text: string): string => hash('sha256', text, 'base64url');

function withFile(path: string, flags: 'r' | 'w', use: (file: number) => void): void {
  const file = openSync(path, flags, 0o600);
  try {
    use(file);
  } finally {
    closeSync(file);
  }
}
