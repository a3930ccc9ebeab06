import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Host, INSIDE } from './hosts/network.ts';

/** What runs on the control server's host speaks with it there: nothing of this reaches the network of the machine. */
const SUITE = fileURLToPath(new URL('hosts/inside.ts', import.meta.url));

test('hosts of their own, whose network loses packets, nothing is lost and nothing runs twice', async () => {
  await using control = await Host.make(`cocore-${process.pid}`);
  const [program, ...args] = [...control.within, process.execPath, '--test', '--test-reporter=spec', SUITE];
  // Else the runner takes it for one of its own files.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const child = spawn(program, args, {
    env: { ...env, [INSIDE]: control.name },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let printed = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text));
  const code = await new Promise((resolve) => child.once('close', resolve));
  assert.equal(code, 0, printed);
});
