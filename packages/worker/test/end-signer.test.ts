import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EndSigner } from '../src/execution/end-signer.ts';

const PLAIN = /^[\w-]{86}$/;

/** A signer, and how often its key was used. */
function signerOf(isShared = true) {
  const signed: number[] = [];
  const signEnds = (statements: readonly string[]) => {
    signed.push(statements.length);
    if (statements.length === 1) return ['A'.repeat(86)];
    return statements.map((_, at) => `${'A'.repeat(86)}.${at}.${statements.length}.path`);
  };
  return { signer: new EndSigner({ signEnds, isShared: () => isShared }), signed };
}
const together = (signer: EndSigner, count: number) =>
  Promise.all(Array.from({ length: count }, (_, at) => signer.sign(`end ${at}`)));

test('an end that is alone, it is signed alone, in the turn in which it came', async () => {
  const { signer, signed } = signerOf();
  let isLater = false;
  setImmediate(() => (isLater = true));
  assert.match(await signer.sign('an end'), PLAIN);
  assert.equal(isLater, false);
  assert.match(await signer.sign('another'), PLAIN);
  assert.deepEqual(signed, [1, 1]);
});

test('ends of one turn, they share a signature, each with its own place', async () => {
  const { signer, signed } = signerOf();
  const signatures = await together(signer, 3);
  assert.deepEqual(signed, [3]);
  assert.deepEqual(
    signatures.map((signature) => signature.split('.').slice(1, 3).join(' of ')),
    ['0 of 3', '1 of 3', '2 of 3'],
  );
});

test('more ends than go together, they go in groups, the last one alone', async () => {
  const { signer, signed } = signerOf();
  assert.match((await together(signer, 33)).at(-1)!, PLAIN);
  assert.deepEqual(signed, [16, 16, 1]);
});

test('a server that does not know shared signatures, every end is signed alone', async () => {
  const { signer, signed } = signerOf(false);
  for (const signature of await together(signer, 3)) assert.match(signature, PLAIN);
  assert.deepEqual(signed, [1, 1, 1]);
});
