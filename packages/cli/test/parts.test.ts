import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { ExecutionRecord } from '@cocore/protocol';
import { daemonCommands } from '../src/commands/daemons.ts';
import { CredentialsStore } from '../src/credentials.ts';
import { describeSandboxes } from '../src/dev-stack.ts';
import { exitCodeOf } from '../src/exit-code.ts';
import { ago, plain } from '../src/print.ts';
import { durationMs, environment, sizeBytes, wholeNumber } from '../src/units.ts';

describe('units', () => {
  test('durations and sizes, are read with their unit and never without', () => {
    assert.deepEqual(['500ms', '30s', '1.5m', '1h'].map(durationMs), [500, 30_000, 90_000, 3_600_000]);
    assert.deepEqual(['1B', '64KiB', '10MiB', '1GiB'].map(sizeBytes), [1, 65_536, 10_485_760, 1_073_741_824]);
    for (const wrong of ['', '30', 's', '-1s', '1 s', '1e3s', '1constructor', '10MB']) {
      assert.throws(() => durationMs(wrong), /number and a unit/, wrong);
    }
    for (const wrong of ['', '1.5', '-1', '0x10']) assert.throws(() => wholeNumber(wrong), wrong);
  });

  test('a variable, may hold anything after its first =', () => {
    assert.deepEqual(environment('A=b=c', { B: '' }), { A: 'b=c', B: '' });
    for (const wrong of ['A', '=b']) assert.throws(() => environment(wrong, {}));
  });
});

describe('what is printed', () => {
  test('control sequences and marks of direction, do not reach the terminal', () => {
    assert.equal(plain('a\u001b[31mred\u0007\u009b2J\u202eb\n'), 'a\ufffd[31mred\ufffd\ufffd2J\ufffdb\ufffd');
    assert.equal(plain('Grüße 🎉'), 'Grüße 🎉');
  });

  test('ages, are in the unit that says enough', () => {
    const now = Date.parse('2026-01-10T00:00:00Z');
    const at = (seconds: number) => ago(new Date(now - seconds * 1000).toISOString(), now);
    assert.deepEqual(
      [at(5), at(600), at(9000), at(300_000), at(-5)],
      ['5s ago', '10m ago', '3h ago', '3d ago', '0s ago'],
    );
  });
});

test('what dev says at its start, it names for a weak class what the class is not', () => {
  assert.equal(
    describeSandboxes({ driver: 'gvisor', isolation: 'gvisor' }),
    'sandboxes by gvisor, isolation class gvisor',
  );
  assert.match(
    describeSandboxes({ driver: 'qemu', isolation: 'emulated' }),
    /emulated: .*not a wall against strangers/,
  );
  assert.match(
    describeSandboxes({ driver: 'crun', isolation: 'container' }),
    /container: .*not a wall against strangers/,
  );
});

test('the exit code of run, is the function’s own or a shell’s word for what happened', () => {
  const cases: [Partial<ExecutionRecord>, number][] = [
    [{ state: 'success', exitCode: 0 }, 0],
    [{ state: 'failure', reason: 'exit_code', exitCode: 3 }, 3],
    [{ state: 'failure', reason: 'signal', signal: 11 }, 139],
    [{ state: 'failure', reason: 'oom' }, 137],
    [{ state: 'timeout', reason: 'run_timeout' }, 124],
    [{ state: 'cancelled', reason: 'user_cancel' }, 130],
    [{ state: 'failure', reason: 'host_lost' }, 125],
  ];
  for (const [fields, code] of cases) {
    assert.equal(exitCodeOf({ exitCode: null, signal: null, reason: null, ...fields } as ExecutionRecord), code);
  }
});

test('credentials, are found by address, readable by their owner alone, and gone once removed', () => {
  const directory = mkdtempSync(join(tmpdir(), 'cocore-cli-'));
  try {
    const store = new CredentialsStore(join(directory, 'deep', 'credentials'));
    assert.deepEqual(store.all(), []);
    store.write({ url: 'http://127.0.0.1:1', apiKey: 'old' });
    store.write({ url: 'http://127.0.0.1:1', apiKey: 'new' });
    assert.equal(store.find('http://127.0.0.1:1')?.apiKey, 'new');
    const path = join(directory, 'deep', 'credentials');
    assert.equal(statSync(join(path, readdirSync(path)[0]!)).mode & 0o777, 0o600);
    store.remove('http://127.0.0.1:1');
    assert.deepEqual(store.all(), []);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test('the help of server and worker, lists exactly what they take', () => {
  for (const [command, daemon] of [
    ['server', 'control'],
    ['worker', 'worker'],
  ] as const) {
    const help = daemonCommands()
      .find((one) => one.name() === command)!
      .configureOutput({ writeOut: (text) => (shown += text) });
    let shown = '';
    help.outputHelp();
    const listed = [...shown.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, name]) => name!);
    const source = readFileSync(new URL(`../../${daemon}/src/config.ts`, import.meta.url), 'utf8');
    const taken = [...source.matchAll(/^\s+'?([a-z-]+)'?: \{ type: '/gm)].map(([, name]) => name!);
    // Doctor's own.
    assert.deepEqual(listed.sort(), taken.filter((name) => name !== 'probe').sort(), command);
  }
});
