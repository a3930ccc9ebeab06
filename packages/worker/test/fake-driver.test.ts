import { readFileSync } from 'node:fs';
import { FakeDriver, type FakeDriverOptions } from '../src/sandbox/fake/fake-driver.ts';
import { driverConformance } from './driver.conformance.ts';
import { hostileGuestConformance } from './hostile-guest.conformance.ts';
import { HostileGuest } from './support/hostile-guest.ts';
import { scriptOf } from './support/hostile-script.ts';

driverConformance(
  'fake',
  async () => {
    const driver = new FakeDriver({ recover: true });
    return {
      driver,
      imagePath: '/nonexistent',
      codePath: '/nonexistent',
      argv: (steps) => ['/bin/bash', '/function/steps.sh', ...steps],
      nextLife: async () => driver,
      leftovers: async () => [],
      [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose](),
    };
  },
  { usage: 'it has no process that could be measured', disk: 'it has no disk', files: 'it has no files' },
);

hostileGuestConformance('fake', async () => {
  const guest: FakeDriverOptions['guest'] = (stream, console, { codePath }) =>
    new HostileGuest(stream, console, scriptOf(readFileSync(codePath)));
  const driver = new FakeDriver({ guest });
  return {
    driver,
    cold: driver,
    muteMs: { driver: 100, cold: 100 },
    leftovers: async () => [],
    [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose](),
  };
});
