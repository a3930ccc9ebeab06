import { FakeDriver } from '../src/sandbox/fake/fake-driver.ts';
import { driverConformance } from './driver.conformance.ts';

driverConformance(
  'fake',
  async () => {
    const driver = new FakeDriver();
    return {
      driver,
      imagePath: '/nonexistent',
      codePath: '/nonexistent',
      argv: (steps) => ['/bin/bash', '/function/steps.sh', ...steps],
      leftovers: async () => [],
      [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose](),
    };
  },
  { usage: 'it has no process that could be measured', disk: 'it has no disk' },
);
