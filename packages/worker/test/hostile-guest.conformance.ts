import { type GuestFrame, type Outcome, STREAM_WINDOW_BYTES, type TaskSpec } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import type { ExecutionParts } from '../src/execution/execution.ts';
import type { SandboxDriver } from '../src/sandbox/driver.ts';
import { MAX_HELD_BYTES, MAX_STALLED_MS, SLACK_MS } from './support/hostile-limits.ts';
import { bytes, frames, type Script, scriptDrive } from './support/hostile-script.ts';
import { type AttemptRun, runAttempt } from './support/run-attempt.ts';
import { workspace } from './support/workspace.ts';

/** A driver whose guests play the script on their code drive instead of being the agent. */
export interface HostileTarget extends AsyncDisposable {
  readonly driver: SandboxDriver;
  /** Its guests boot: so they are there before their port is. */
  readonly cold: SandboxDriver;
  /** What a guest of each is given where it is known that it will not greet: less than its driver gives, but it runs by then. */
  readonly muteMs: Readonly<Record<'driver' | 'cold', number>>;
  /** What live or dead sandboxes have on the host now: empty when all are gone. */
  leftovers(): Promise<string[]>;
}

interface Mode {
  readonly name: string;
  readonly script: Script;
  readonly outcome: Outcome;
  /** What the end says. */
  readonly message: RegExp | null;
  readonly task?: Partial<TaskSpec>;
  readonly parts?: Partial<Pick<ExecutionParts, 'pingMs' | 'agentLostMs'>>;
  readonly acknowledges?: boolean;
  /** Its guest says nothing: the boot's deadline has to pass, twice. */
  readonly isMute?: boolean;
  /** It is about how the guest boots, and nothing comes of that: the whole preparation's deadline has to pass. */
  readonly isCold?: boolean;
  /** From STARTED to the end at most, beyond what the machine's start takes. */
  readonly withinMs?: number;
  /** One of the few that stand for all where a start is dear. */
  readonly isTypical?: boolean;
  readonly also?: (run: AttemptRun) => void;
}

const MAX = Number.MAX_SAFE_INTEGER;
const PROTOCOL: Outcome = { kind: 'lost', cause: 'protocol' };
const AGENT_LOST: Outcome = { kind: 'lost', cause: 'agent_lost' };
/** A guest that does not greet as it should is no sandbox, on both tries. */
const NO_SANDBOX: Outcome = { kind: 'lost', cause: 'sandbox' };
const TIMED_OUT: Outcome = { kind: 'timed_out', clock: 'run' };
const exited = (code: number): Outcome => ({ kind: 'exited', code });

const STARTED: GuestFrame = { type: 'STARTED', monotonicNs: 1n };
const exit = (of: Partial<Extract<GuestFrame, { type: 'EXIT' }>> = {}): GuestFrame => ({
  ...{ type: 'EXIT', kind: 'exited', oom: false, code: 3 },
  ...{ stdoutLength: 0, stderrLength: 0, resultLength: 0, artifactsLength: 0, artifactFiles: 0 },
  ...{ cpuUs: 0, memoryPeakBytes: 0, refused: null, message: '', ...of },
});
const stdout = (offset: number, text: string): GuestFrame => ({ type: 'STDOUT', offset, data: Buffer.from(text) });
const fault = (message: string): GuestFrame => ({ type: 'FAULT', stage: 'start', errno: 0, message });
const say = (...all: GuestFrame[]) => `send ${frames(...all)}`;
const raw = (...values: number[]) => `send ${bytes(...values)}`;

const TASKED: Script = ['hello 2', 'expect 2'];
const RUNNING: Script = [...TASKED, say(STARTED)];
/** It has read its task, and nothing after that. */
const DEAF: Script = ['hello 2', 'dumb', 'expect 2', 'deaf', say(STARTED)];

const SOON = { pingMs: 100, agentLostMs: 1_000 };
const FLOOD_MS = 1_000;

const breach = (name: string, script: Script, message: RegExp, of: Partial<Mode> = {}): Mode => ({
  ...{ name, script, message, outcome: PROTOCOL, withinMs: SLACK_MS },
  ...of,
});
const badFrame = (name: string, frame: readonly number[], message: RegExp, of: Partial<Mode> = {}) =>
  breach(name, [...RUNNING, raw(...frame)], message, of);
const badGreeting = (name: string, script: Script, message: RegExp, of: Partial<Mode> = {}): Mode => ({
  ...{ name, script, message, outcome: NO_SANDBOX },
  ...of,
});
const flood = (name: string, script: Script, of: Partial<Mode> = {}): Mode => ({
  ...{ name, script, message: null, outcome: TIMED_OUT, withinMs: FLOOD_MS + SLACK_MS },
  ...{ task: { runTimeoutMs: FLOOD_MS }, ...of },
});

/** The daemon counts such output as kept by the server at once: the guest has credit without end. */
const NOTHING_KEPT: Partial<Mode> = {
  task: { runTimeoutMs: FLOOD_MS, outputLimitBytes: 0 },
  also: ({ ended }) => assert.deepEqual([ended.stdout.bytes, ended.stdout.truncated], [0, true]),
};

const MODES: readonly Mode[] = [
  // --- Malformed and oversize frames
  badFrame('an empty frame', [0, 0, 0, 0, 0], /no type/),
  badFrame('a frame of an unknown type', [1, 0, 0, 0, 0x42], /type 66 is unknown/),
  badFrame('a frame of the host’s', [1, 0, 0, 0, 0x09], /type 9 is unknown/),
  badFrame('a frame of 4 GiB', [0xff, 0xff, 0xff, 0xff, 0x83], /4294967295 bytes long/, { isTypical: true }),
  badFrame('a frame one byte over the limit', [0x11, 0, 1, 0, 0x83], /65553 bytes long/),
  breach('more data than a frame may have', [...RUNNING, 'data 1 0 65537'], /wrong length/),
  badFrame('output of no bytes', [9, 0, 0, 0, 0x83, 0, 0, 0, 0, 0, 0, 0, 0], /wrong length/),
  badFrame('a payload that is too short', [5, 0, 0, 0, 0x86, 1, 2, 3, 4], /too short/),
  badFrame('a payload that is too long', [10, 0, 0, 0, 0x87, 0, 0, 0, 0, 0, 0, 0, 0, 0], /too long/),
  badFrame('a message that is not UTF-8', [7, 0, 0, 0, 0x88, 1, 0, 0, 0, 0, 0xff], /not UTF-8/),
  breach('an exit code that there is not', [...RUNNING, say(exit({ code: 256 }))], /out of range/),
  breach('garbage without end', [...RUNNING, `repeat ${bytes(0xde, 0xad, 0xbe, 0xef)}`], /bytes long/),

  // --- A greeting that lies
  badGreeting('a greeting with another nonce', ['expect 1', greeting(new Uint8Array(16))], /another nonce/, {
    isTypical: true,
  }),
  badGreeting('a greeting of another version', ['hello 9'], /frame version 9/),
  badGreeting('a greeting without a nonce', ['expect 1', raw(3, 0, 0, 0, 0x81, 1, 0)], /too short/),
  badGreeting('the host’s own bytes sent back', ['echo'], /frame type 1 is unknown/),
  badGreeting('a start instead of a greeting', ['expect 1', say(STARTED)], /STARTED that nobody waits for/),
  badGreeting('an end instead of a greeting', ['expect 1', say(exit())], /EXIT while nothing runs/),
  badGreeting('an end of the machine at once', ['poweroff'], /stream ended/),
  badGreeting('a port that is opened and closed', ['close'], /did not answer within|stream ended/, {
    isMute: true,
  }),
  badGreeting('not a word', [], /did not answer within/, { isMute: true }),
  {
    ...{ name: 'a port that is never opened', script: ['unopened'], isCold: true },
    ...{ outcome: { kind: 'timed_out', clock: 'prepare' }, message: null },
    also: ({ sandboxes }) => assert.match(sandboxes[0]!.console(), /hostile: unopened/),
  },

  // --- Out of order
  breach('a second greeting', [...RUNNING, greeting(new Uint8Array(16))], /HELLO that nobody waits for/),
  breach('a start before the task', [`hello 2 ${frames(STARTED)}`], /STARTED that nobody waits for/),
  breach('a second start', [...RUNNING, say(STARTED)], /STARTED that nobody waits for/),
  breach('output before the start', [...TASKED, say(stdout(0, 'x'))], /output while nothing runs/),
  breach('an end before the start', [...TASKED, say(exit())], /EXIT while nothing runs/, { isTypical: true }),
  breach('an answer to no ping', [...RUNNING, say({ type: 'PONG', token: 1_000_000n })], /PONG without a PING/),
  breach('the same answer without end', [...RUNNING, `repeat ${frames({ type: 'PONG', token: 1n })}`], /PONG without/),
  {
    name: 'two ends, the first counts',
    script: [...RUNNING, say(exit(), exit({ code: 4 }), fault('no'))],
    outcome: exited(3),
    message: null,
    isTypical: true,
  },
  {
    name: 'frames after the end, they count for nothing',
    script: [...RUNNING, say(stdout(0, 'ab'), exit({ stdoutLength: 2 }), stdout(2, 'c'), STARTED)],
    outcome: exited(3),
    message: null,
    also: ({ ended }) => assert.equal(ended.stdout.bytes, 2),
  },
  {
    name: 'garbage without end after the end, it counts for nothing',
    script: [...RUNNING, say(exit()), `repeat ${bytes(0xff)}`],
    outcome: exited(3),
    message: null,
    withinMs: SLACK_MS,
  },

  // --- Lies about offsets and numbers
  breach('a gap in the output', [...RUNNING, say(stdout(0, 'abc'), stdout(5, 'd'))], /stdout at a wrong offset/),
  breach('bytes a second time, others', [...RUNNING, say(stdout(0, 'abc'), stdout(1, 'xyz'))], /wrong offset/, {
    isTypical: true,
  }),
  breach('an offset beyond everything', [...RUNNING, say(stdout(MAX, 'a'))], /wrong offset/),
  breach('an offset that is no number here', [...RUNNING, `data 1 ${2n ** 63n} 1`], /out of range/),
  breach('a stream’s bytes at the other’s offset', [...RUNNING, 'data 1 0 9', 'data 2 9 9'], /stderr at a wrong/),
  breach('an end with more output than came', [...RUNNING, say(exit({ stdoutLength: 5 }))], /lengths/),
  breach('an end with less output than came', [...RUNNING, say(stdout(0, 'abc'), exit())], /lengths/),
  breach('input taken that was never sent', [...RUNNING, say({ type: 'STDIN_ACK', offset: 1 })], /STDIN_ACK of bytes/),
  {
    name: 'usage of the largest numbers, it is reported as it is',
    script: [...RUNNING, say(exit({ cpuUs: MAX, memoryPeakBytes: MAX }))],
    outcome: exited(3),
    message: null,
    also: ({ ended }) => assert.equal(ended.usage.guest?.memoryPeakBytes, MAX),
  },
  {
    name: 'a fault whose message does not fit, it is cut to whole characters',
    script: [...TASKED, say(fault(`${'\x1b'.repeat(999)}\u{1f600}`))],
    outcome: { kind: 'not_started', cause: 'start' },
    message: /^\x1b{999}\ufffd$/,
  },

  // --- A guest that does not answer, or does not read
  {
    ...{ name: 'a guest that never beats', script: [...RUNNING, 'dumb'] },
    ...{ outcome: AGENT_LOST, message: /did not answer for 1000 ms/ },
    ...{ parts: SOON, withinMs: SOON.agentLostMs + SLACK_MS, isTypical: true },
  },
  {
    ...{ name: 'a guest that never reads its input', script: DEAF },
    ...{ outcome: AGENT_LOST, message: /did not answer for 1000 ms/ },
    ...{ parts: SOON, withinMs: SOON.agentLostMs + SLACK_MS, isTypical: true },
    task: { stdin: { base64: randomBytes(1_000_000).toString('base64') } },
  },
  {
    ...{
      name: 'a guest that never reads and guesses its answers',
      script: [...DEAF, 'guess 200'],
    },
    ...{ outcome: TIMED_OUT, message: null },
    // Longer than a guest may be silent.
    ...{ parts: { pingMs: 100, agentLostMs: 3_000 }, task: { runTimeoutMs: 4_000 }, withinMs: 4_000 + SLACK_MS },
  },
  {
    ...{ name: 'a frame that never ends', script: [...RUNNING, raw(0, 0, 1, 0, 0x83, 0, 0, 0), 'dumb'] },
    ...{ outcome: AGENT_LOST, message: /did not answer for 1000 ms/ },
    ...{ parts: SOON, withinMs: SOON.agentLostMs + SLACK_MS },
  },
  {
    ...{ name: 'a port that is closed after the greeting', script: [...RUNNING, 'close'] },
    ...{ outcome: AGENT_LOST, message: /did not answer for 1000 ms|stream ended/ },
    ...{ parts: SOON, withinMs: SOON.agentLostMs + SLACK_MS },
  },
  {
    ...{ name: 'an end of the machine without a report', script: [...RUNNING, 'poweroff'] },
    ...{ outcome: AGENT_LOST, message: /stream ended/, isTypical: true },
  },

  // --- Floods
  breach('output beyond its credit', [...RUNNING, 'output 1 65536 0'], /stdout beyond its credit/, {
    acknowledges: false,
    isTypical: true,
    also: ({ ended }) => assert.ok(ended.stdout.bytes <= STREAM_WINDOW_BYTES),
  }),
  breach('output in small frames beyond its credit', [...RUNNING, 'output 2 16 0'], /stderr beyond its credit/, {
    acknowledges: false,
    also: ({ ended }) => assert.equal(ended.stderr.bytes, STREAM_WINDOW_BYTES),
  }),
  flood('a flood of output of which nothing is kept', [...RUNNING, 'output 1 65536 0'], NOTHING_KEPT),
  flood('a flood of bytes in frames of their own, from a guest that never reads', [...DEAF, 'output 1 1 0'], {
    ...NOTHING_KEPT,
    isTypical: true,
  }),
  flood('a flood of acknowledgements', [...RUNNING, `repeat ${frames({ type: 'STDIN_ACK', offset: 0 })}`]),
  flood('a flood in writes of one byte', [...RUNNING, `drip ${frames({ type: 'STDIN_ACK', offset: 0 })}`]),
  flood('a flood on the console', [...RUNNING, 'print'], {
    also: ({ sandboxes }) => assert.match(sandboxes.at(-1)!.console(), /^[\n\x20-\x7e]{1,65536}$/),
  }),
];

function greeting(nonce: Uint8Array): string {
  return say({ type: 'HELLO', version: 2, nonce, agentVersion: 'hostile' });
}

/** Says of each test why this driver has no guest that could do it. */
export function withoutGuest(name: string, reason: string): void {
  describe(`hostile guest, ${name}`, () => {
    for (const mode of MODES) test(mode.name, { skip: reason }, () => undefined);
  });
}

/**
 * What a guest does of its own will, against the daemon's own conversation and execution: each ends as its row says, and nothing is left.
 * `onlyTypical` says why only the typical ones are tried.
 */
export function hostileGuestConformance(
  name: string,
  makeTarget: () => Promise<HostileTarget>,
  { onlyTypical = false }: { readonly onlyTypical?: string | false } = {},
): void {
  describe(`hostile guest, ${name}`, () => {
    const scope = new AsyncDisposableStack();
    let target: HostileTarget;
    let path: string;

    const attempt = async (mode: Mode) => {
      const [imagePath, codePath] = [join(path, 'image'), join(path, 'code')];
      await writeFile(imagePath, Buffer.alloc(65_536));
      await writeFile(codePath, scriptDrive(mode.script));
      const { isMute = false, isCold = false, parts = {}, acknowledges = true } = mode;
      const { muteMs } = target;
      const driver = isCold ? target.cold : target.driver;
      const bootDeadlineMs = isMute ? muteMs.driver : isCold ? 2 * muteMs.cold : driver.capabilities.bootDeadlineMs;
      const task = { ...(isCold ? { prepareTimeoutMs: muteMs.cold } : {}), ...mode.task };
      return runAttempt({ driver, bootDeadlineMs, imagePath, codePath, task, parts, acknowledges });
    };

    before(async () => {
      path = scope.use(await workspace()).path;
      target = scope.use(await makeTarget());
    });
    after(() => scope.disposeAsync());
    afterEach(async () => {
      assert.deepEqual(await target.leftovers(), [], 'a sandbox left something behind');
    });

    for (const mode of MODES) {
      const skip = onlyTypical !== false && mode.isTypical !== true ? onlyTypical : false;
      test(mode.name, { skip }, async () => {
        const run = await attempt(mode);
        const { outcome, message } = run.ended;
        assert.deepEqual(outcome, mode.outcome, message ?? 'without a message');
        if (mode.message === null) assert.equal(message, null);
        else assert.match(message ?? '', mode.message);
        // An emulated machine hangs at boot now and then, whatever its guest would do; what has greeted is never started again.
        assert.equal(run.sandboxes.length, 1 + run.bootRetries);
        if (mode.outcome === NO_SANDBOX) assert.equal(run.bootRetries, 1);
        assert.ok(run.heldBytes < MAX_HELD_BYTES, `it held ${run.heldBytes} bytes`);
        assert.ok(run.stalledMs < MAX_STALLED_MS, `it stood still for ${run.stalledMs} ms`);
        if (mode.withinMs !== undefined && run.ranMs !== null) {
          assert.ok(run.ranMs < mode.withinMs, `it ran for ${run.ranMs} ms`);
        }
        mode.also?.(run);
      });
    }

    test('a guest that keeps to the contract, after all of them', async () => {
      const script = [...RUNNING, say(stdout(0, 'hello'), exit({ code: 0, stdoutLength: 5 }))];
      const { ended } = await attempt({ name: '', script, outcome: exited(0), message: null });
      assert.deepEqual([ended.outcome, ended.stdout.bytes], [exited(0), 5]);
    });
  });
}
