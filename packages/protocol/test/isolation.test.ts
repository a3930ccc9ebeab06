import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEFAULT_ISOLATION, IsolationClass, isAtLeast, orBetter } from '../src/index.ts';

test('every class against every other, it satisfies itself and all that are weaker', () => {
  const satisfies = Object.fromEntries(
    IsolationClass.options.map((given) => [
      given,
      IsolationClass.options.filter((required) => isAtLeast(given, required)),
    ]),
  );
  assert.deepEqual(satisfies, {
    microvm: ['microvm', 'gvisor', 'emulated', 'container'],
    gvisor: ['gvisor', 'emulated', 'container'],
    emulated: ['emulated', 'container'],
    container: ['container'],
  });
});

test('the default, it is met by a microVM and by gVisor and by nothing else', () => {
  const meet = IsolationClass.options.filter((given) => isAtLeast(given, DEFAULT_ISOLATION));
  assert.deepEqual(meet, ['microvm', 'gvisor']);
  assert.deepEqual([orBetter('microvm'), orBetter('gvisor')], ['microvm', 'gvisor or better']);
});
