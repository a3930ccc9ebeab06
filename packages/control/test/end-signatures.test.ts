import { signEnds } from '@cocore/protocol';
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { EndSignatures } from '../src/gateway/end-signatures.ts';

const KEYS = crypto.generateKeyPairSync('ed25519');
const sha256 = (text: string) => crypto.hash('sha256', text, 'base64url');
const sign = (statement: string) => crypto.sign(null, Buffer.from(statement), KEYS.privateKey).toString('base64url');

/** Each with its signature. */
const together = (name: string, count: number): [string, string][] => {
  const statements = Array.from({ length: count }, (_, at) => `${name} ${at}`);
  const signatures = signEnds(statements, sha256, sign);
  return statements.map((statement, at) => [statement, signatures[at]!]);
};

describe('the signatures of a worker’s ends', () => {
  let checks: number;
  let ends: EndSignatures;
  beforeEach(() => {
    checks = 0;
    ends = new EndSignatures(KEYS.publicKey);
    const { verify } = crypto;
    mock.method(crypto, 'verify', (...args: Parameters<typeof verify>) => {
      checks += 1;
      return verify(...args);
    });
    syncBuiltinESMExports();
  });
  afterEach(() => {
    mock.restoreAll();
    syncBuiltinESMExports();
  });
  const isSigned = ([statement, signature]: [string, string]) => ends.isSigned(statement, signature);

  test('ends that share one, it is checked once, whether they come at once or later', () => {
    const [last, ...others] = together('a', 16);
    assert.ok(others.every(isSigned));
    assert.ok(isSigned(last!));
    assert.equal(checks, 1);
  });

  test('an end of its own, it is checked each time', () => {
    const [end] = together('a', 1);
    assert.ok(isSigned(end!));
    assert.ok(isSigned(end!));
    assert.equal(checks, 2);
  });

  test('one that is wrong, it is not remembered, and one that is right does not vouch for it', () => {
    const [[statement, signature], other] = together('a', 2) as [[string, string], [string, string]];
    const wrong: [string, string] = [statement, 'A'.repeat(86) + signature.slice(86)];
    assert.ok(isSigned(other));
    for (const _time of ['first', 'again']) assert.equal(isSigned(wrong), false);
    assert.equal(isSigned(['another end', signature]), false);
    assert.equal(checks, 4);
  });

  test('those that came long ago, they are forgotten', () => {
    const [first, second] = together('first', 2);
    assert.ok(isSigned(first!));
    for (let at = 0; at < 32; at += 1) assert.ok(isSigned(together(`other ${at}`, 2)[0]!));
    checks = 0;
    assert.ok(isSigned(second!));
    assert.equal(checks, 1);
  });
});
