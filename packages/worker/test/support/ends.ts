import { type AttemptEnded, endStatement, ofStreams } from '@cocore/protocol';
import { generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { EndRecord } from '../../src/execution/end-journal.ts';
import { linesOf } from '../../src/execution/end-log.ts';

/** A key that ends are signed with, as a worker's identity has one. */
export class SigningKey {
  readonly #keys = generateKeyPairSync('ed25519');

  sign(statement: string, key: KeyObject = this.#keys.privateKey): string {
    return sign(null, Buffer.from(statement), key).toString('base64url');
  }

  hasSigned(ended: AttemptEnded): boolean {
    const signature = Buffer.from(ended.signature, 'base64url');
    return verify(null, Buffer.from(endStatement(ended)), this.#keys.publicKey, signature);
  }
}

/** A success without output. */
export function endRecord(attemptId: string, key: SigningKey): EndRecord {
  const nothing = { bytes: 0, sha256: `sha256:${'0'.repeat(64)}`, truncated: false };
  const facts = {
    attemptId,
    outcome: { kind: 'exited' as const, code: 0 },
    ...ofStreams(() => nothing),
    artifactFiles: 0,
    usage: { host: null, guest: null },
  };
  const ended: AttemptEnded = {
    type: 'AttemptEnded',
    ...facts,
    message: null,
    signature: key.sign(endStatement(facts)),
  };
  return { version: 1, driver: 'fake', isolation: 'container', startedAtMs: 1_000, ended };
}

/** The attempts whose ends a journal has on the disk, and that it does not say are removed. */
export function endsOnDisk(directory: string): string[] {
  const ends = new Set<string>();
  for (const name of readdirSync(directory)) {
    for (const line of linesOf(readFileSync(join(directory, name)))) {
      const said = JSON.parse(line) as { removed: string } | EndRecord;
      if ('removed' in said) ends.delete(said.removed);
      else ends.add(said.ended.attemptId);
    }
  }
  return [...ends].sort();
}
