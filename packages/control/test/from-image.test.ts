import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { processOfImage } from '../src/deploy/from-image.ts';

const CONFIG = {
  entrypoint: ['/entry', '-x'],
  command: ['one'],
  environment: ['A=b=c', 'PATH=/own', 'NOTHING', '=odd'],
  workingDirectory: '/srv',
  user: { uid: 1000, gid: 100, additionalGids: [5], home: '/home/me' },
  stopSignal: 'SIGQUIT',
};

describe('the process of an image', () => {
  test('as the image says, it is started so', () => {
    assert.deepEqual(processOfImage(CONFIG, undefined), {
      argv: ['/entry', '-x', 'one'],
      env: { PATH: '/own', HOME: '/home/me', A: 'b=c' },
      cwd: '/srv',
      user: { uid: 1000, gid: 100, additionalGids: [5] },
      stopSignal: 'SIGQUIT',
    });
  });

  test('arguments that are given, they replace the image’s own and the entry point stays', () => {
    assert.deepEqual(processOfImage(CONFIG, ['two', 'three']).argv, ['/entry', '-x', 'two', 'three']);
    assert.deepEqual(processOfImage({ ...CONFIG, entrypoint: [] }, ['sh']).argv, ['sh']);
  });

  test('no path of its own, it has the usual one', () => {
    assert.match(processOfImage({ ...CONFIG, environment: [] }, undefined).env['PATH']!, /^\/usr\/local\/sbin:/);
  });

  test('nothing to start, it is refused', () => {
    assert.throws(() => processOfImage({ ...CONFIG, entrypoint: [], command: [] }, undefined), {
      code: 'image_refused',
    });
  });
});
