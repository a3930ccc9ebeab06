import assert from 'node:assert/strict';
import { generateKeyPairSync, hash, type KeyObject, sign, verify } from 'node:crypto';
import { describe, test } from 'node:test';
import { AttemptEnded, endStatement, isSharedSignature, makeId, ofStreams, signedFor, signEnds } from '../src/index.ts';

const KEYS = generateKeyPairSync('ed25519');
const OTHER_KEYS = generateKeyPairSync('ed25519');
const sha256 = (text: string) => hash('sha256', text, 'base64url');

const endOf = (number: number): AttemptEnded => ({
  type: 'AttemptEnded',
  attemptId: makeId('attempt', number, new Uint8Array(10)),
  outcome: { kind: 'exited', code: 0 },
  ...ofStreams(() => ({ bytes: number, sha256: `sha256:${'0'.repeat(64)}`, truncated: false })),
  message: null,
  artifactFiles: 0,
  usage: { host: null, guest: null },
  signature: '',
});

/** So many ends that were told together. */
function signedEnds(size: number, { privateKey }: { privateKey: KeyObject } = KEYS): AttemptEnded[] {
  const ends = Array.from({ length: size }, (_, number) => endOf(number));
  const signWithKey = (statement: string) => sign(null, Buffer.from(statement), privateKey).toString('base64url');
  const signatures = signEnds(ends.map(endStatement), sha256, signWithKey);
  return ends.map((end, at) => ({ ...end, signature: signatures[at]! }));
}

function isSigned(ended: AttemptEnded): boolean {
  if (!AttemptEnded.safeParse(ended).success) return false;
  const signed = signedFor(endStatement(ended), ended.signature, sha256);
  if (signed === null) return false;
  return verify(null, Buffer.from(signed.statement), KEYS.publicKey, Buffer.from(signed.signature, 'base64url'));
}

const partsOf = ({ signature }: AttemptEnded): string[] => signature.split('.');

describe('signatures of ends', () => {
  for (const size of [1, 2, 3, 5, 16, 33, 64]) {
    test(`${size} together, each proves itself, in less than a kilobyte`, () => {
      const ends = signedEnds(size);
      for (const ended of ends) assert.ok(isSigned(ended));
      assert.equal(new Set(ends.map((ended) => partsOf(ended)[0])).size, 1);
      assert.ok(ends.every(({ signature }) => isSharedSignature(signature) === size > 1 && signature.length < 1024));
      assert.equal(new Set(ends.map(({ signature }) => signature)).size, size);
    });
  }

  test('the same root for all ends of a tree, another one for another tree', () => {
    const rootsOf = (ends: AttemptEnded[]) =>
      new Set(ends.map((ended) => signedFor(endStatement(ended), ended.signature, sha256)?.statement));
    assert.equal(rootsOf(signedEnds(5)).size, 1);
    assert.notDeepEqual(rootsOf(signedEnds(5)), rootsOf(signedEnds(6)));
  });

  test('what is signed, it names protocol and purpose, and is no end', () => {
    const [ended] = signedEnds(2);
    const { statement } = signedFor(endStatement(ended!), ended!.signature, sha256)!;
    assert.match(statement, /^cocore\.worker\.v1\nends\n2\n[\w-]{43}$/);
    assert.match(endStatement(ended!), /^cocore\.worker\.v1\nended\n/);
  });

  const ends = signedEnds(5);
  const third = ends[2]!;
  const [root = '', index = '', size = '', path = ''] = partsOf(third);
  const wrong: [string, AttemptEnded | string][] = [
    ['another fact', { ...third, artifactFiles: 1 }],
    ['another attempt', { ...third, attemptId: endOf(9).attemptId }],
    ['the signature of another end of the tree', ends[3]!.signature],
    ['another index', [root, '3', size, path].join('.')],
    ['an index beyond the tree', [root, '5', size, path].join('.')],
    ['another size', [root, index, '6', path].join('.')],
    ['a changed path', [root, index, size, `${path[0] === 'A' ? 'B' : 'A'}${path.slice(1)}`].join('.')],
    ['hashes of the path in another order', [root, index, size, path.slice(43) + path.slice(0, 43)].join('.')],
    ['a path that is too short', [root, index, size, path.slice(43)].join('.')],
    ['a path that is too long', [root, index, size, path + path.slice(0, 43)].join('.')],
    ['a hash that is not whole', [root, index, size, path.slice(0, -1)].join('.')],
    ['no path', [root, index, size, ''].join('.')],
    ['the root’s signature alone', root],
    ['a tree of one', [root, '0', '1', path].join('.')],
    ['a tree that is too large', [root, '0', '65', path].join('.')],
    ['a number of another form', [root, `0${index}`, size, path].join('.')],
    ['a fifth part', [root, index, size, path, path].join('.')],
    ['another key', signedEnds(5, OTHER_KEYS)[2]!],
  ];
  for (const [name, changed] of wrong) {
    test(`${name}, it proves nothing`, () => {
      assert.ok(isSigned(third));
      assert.ok(!isSigned(typeof changed === 'string' ? { ...third, signature: changed } : changed));
    });
  }

  test('a node that is given for a leaf, it proves nothing', () => {
    const four = signedEnds(4);
    const [signature = '', , , pathOfFirst = ''] = partsOf(four[0]!);
    const [, , , pathOfThird = ''] = partsOf(four[2]!);
    const leaves = four.map((ended) => sha256(`\u0000${endStatement(ended)}`));
    const inNode = `${leaves[0]}${leaves[1]}`;
    assert.equal(pathOfThird.slice(43), sha256(`\u0001${inNode}`));
    const rootOf = (statement: string, shared: string) =>
      signedFor(statement, shared, sha256)?.statement.split('\n').at(-1);
    const forged = rootOf(inNode, `${signature}.0.2.${pathOfFirst.slice(43)}`);
    assert.ok(forged !== undefined && forged !== rootOf(endStatement(four[0]!), four[0]!.signature));
  });
});
