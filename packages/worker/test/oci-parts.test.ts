import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, test } from 'node:test';
import { ROOT_USER, STDIN_WINDOW_BYTES, STREAM_WINDOW_BYTES } from '@cocore/protocol';
import { ociConfig } from '../src/guest/oci-config.ts';
import { FunctionInput } from '../src/sandbox/oci/function-input.ts';
import { FunctionOutput } from '../src/sandbox/oci/function-output.ts';
import { hostConfig } from '../src/sandbox/oci/host-config.ts';
import { parseNews } from '../src/sandbox/oci/launcher.ts';
import { CRUN, GVISOR } from '../src/sandbox/oci/runtimes.ts';
import { eventually } from './support/workspace.ts';

const task = {
  argv: ['/bin/true', 'a b'],
  env: { A: 'b' },
  cwd: '/work',
  user: ROOT_USER,
  memoryMiB: 128,
  hostname: 'function',
  hasNetwork: false,
};
const guest = ociConfig(task);
type Config = typeof guest & { hooks?: unknown };
const derive = (runtime: typeof CRUN) => JSON.parse(hostConfig(Buffer.from(JSON.stringify(guest)), runtime)) as Config;

describe('the configuration on a host', () => {
  test('what the function needs, it is the guest’s', () => {
    for (const runtime of [CRUN, GVISOR]) {
      const config = derive(runtime);
      assert.deepEqual(config.process, guest.process);
      assert.deepEqual(config.linux.seccomp, guest.linux.seccomp);
      assert.equal(config.hostname, 'function');
    }
  });

  test('where things are, no path of the guest is left and no namespace is joined', () => {
    for (const runtime of [CRUN, GVISOR]) {
      const config = derive(runtime);
      assert.doesNotMatch(JSON.stringify(config), /\/run\/fn|\/fn\/task/);
      const kinds = config.linux.namespaces.map(({ type }) => type);
      assert.deepEqual(kinds, ['mount', 'ipc', 'uts', 'network', 'cgroup']);
    }
  });

  test('on the host’s kernel, what tells of the host is masked too', () => {
    const masked = derive(CRUN).linux.maskedPaths;
    for (const path of [...guest.linux.maskedPaths, '/proc/cmdline', '/proc/sys/kernel/random/boot_id', '/sys/block']) {
      assert.ok(masked.includes(path), path);
    }
    assert.deepEqual(derive(GVISOR).linux.maskedPaths, guest.linux.maskedPaths);
  });

  test('what is no configuration, it is refused', () => {
    assert.throws(() => hostConfig(Buffer.from('{"process":1}'), CRUN), /not an OCI configuration/);
  });
});

test('what the launcher says, it is read; what it cannot say is not', () => {
  assert.deepEqual(parseNews('exited 143'), { type: 'exited', code: 143 });
  assert.deepEqual(parseNews('lost a reason'), { type: 'lost', log: 'a reason' });
  const fault = { type: 'fault', stage: 'image', errno: 22, message: 'mount x: Invalid argument' };
  assert.deepEqual(parseNews('fault image 22 mount x: Invalid argument'), fault);
  for (const line of ['', 'fault nowhere 1 x', 'hello']) assert.equal(parseNews(line), null, line);
});

test('output without acknowledgements, it stops at the window and the pipe holds the rest', async () => {
  const pipe = new PassThrough({ highWaterMark: 64 * 1024 });
  const output = new FunctionOutput(pipe, () => true);
  const data = Buffer.alloc(64 * 1024, 'x');
  let written = 0;
  const write = () => {
    while (written < 32 && pipe.write(data)) written += 1;
  };
  pipe.on('drain', write);
  write();
  assert.equal(output.length, 0, 'nothing goes out before the start');
  output.open();
  await eventually('a full window', () => output.length === STREAM_WINDOW_BYTES);
  assert.ok(pipe.readableLength + pipe.writableLength <= 4 * 64 * 1024, 'what waits is bounded');
  assert.equal(output.acknowledge(output.length + 1), false);
  assert.equal(output.acknowledge(output.length), true);
  await eventually('a second window', () => output.length === 2 * STREAM_WINDOW_BYTES);
});

test('input beyond the window or at a wrong offset, it is refused', () => {
  const input = new FunctionInput(new PassThrough({ highWaterMark: 1 }), () => undefined);
  assert.equal(input.push(1, Buffer.alloc(1)), false);
  const piece = Buffer.alloc(64 * 1024);
  for (let at = 0; at < STDIN_WINDOW_BYTES; at += piece.length) assert.equal(input.push(at, piece), true);
  assert.equal(input.push(STDIN_WINDOW_BYTES, Buffer.alloc(1)), false);
  assert.equal(input.end(STDIN_WINDOW_BYTES), true);
  assert.equal(input.end(STDIN_WINDOW_BYTES), false);
});
