import {
  AGENT_LOST_MS,
  AGENT_PING_MS,
  assertNever,
  type AttemptAssign,
  type AttemptEnded,
  type BlobRef,
  CocoreError,
  DEFAULT_STOP_GRACE_MS,
  endStatement,
  type GuestFrame,
  type MeterReading,
  type Outcome,
  type TaskSpec,
} from '@cocore/protocol';
import { constants } from 'node:os';
import { posix } from 'node:path';
import type { Logger } from 'pino';
import type { BlobCache } from '../blobs/blob-cache.ts';
import type { ChannelFailure, GuestChannel, GuestFile, GuestListener } from '../guest/channel.ts';
import { ociConfig } from '../guest/oci-config.ts';
import { type StdinSource, stdinOfBytes, stdinOfFile } from '../guest/stdin.ts';
import { awakeClock, type Clock, deadline, uptimeClock } from '../host/clock.ts';
import type { Sandbox, SandboxDriver } from '../sandbox/driver.ts';
import type { Acceptance, Attempt, AttemptEnd, StopCause } from './attempt.ts';
import { AttemptOutput } from './attempt-output.ts';
import { boot } from './boot.ts';
import type { EndJournal } from './end-journal.ts';

export interface ExecutionParts {
  readonly driver: SandboxDriver;
  readonly blobs: BlobCache;
  readonly log: Logger;
  /** Signs an end with the worker's key. */
  readonly sign: (statement: string) => string;
  readonly journal: Pick<EndJournal, 'write'>;
  /** Something is ready to be reported or sent. */
  readonly onNews: () => void;
  /** A sandbox did not answer by its deadline and is started once more. */
  readonly onBootRetry: () => void;
  readonly uptime?: Clock;
  readonly pingMs?: number;
  readonly agentLostMs?: number;
}

type EndFrame = Extract<GuestFrame, { type: 'EXIT' | 'FAULT' }>;

const MAX_MESSAGE_LENGTH = 1000;
/** The same in every sandbox: it tells nothing about the host. */
const HOSTNAME = 'function';

/** Thrown inside the run when the end is decided: nothing is left to do but to clean up. */
class Decided extends Error {}

/**
 * One attempt from assignment to end. It owns a stack of everything the attempt has (blobs in use, sandbox, conversation,
 * timers). The end is decided once: the first cause wins. It is written down, then the stack is released in reverse order, then the end
 * is told.
 */
export class Execution implements Attempt {
  readonly attemptId: string;
  readonly acceptance: Acceptance;
  readonly output: AttemptOutput;
  /** Resolves when the sandbox is gone and, unless it was revoked, `ended` is set. It never rejects. */
  readonly done: Promise<void>;
  readonly #task: TaskSpec;
  readonly #parts: ExecutionParts;
  readonly #uptime: Clock;
  readonly #stop = new AbortController();
  readonly #decided = Promise.withResolvers<void>();
  #end: AttemptEnd | 'revoked' | null = null;
  #startedAtMs: number | null = null;
  #ended: AttemptEnded | null = null;
  #channel: GuestChannel | null = null;
  #sandbox: Sandbox | null = null;
  #runningSinceMs: number | null = null;
  #guest: MeterReading | null = null;
  #artifactFiles = 0;
  #isFinal = false;
  /** Present from the moment that the function was asked to stop. */
  #grace: Disposable | null = null;

  constructor(assign: Pick<AttemptAssign, 'attemptId' | 'task'>, parts: ExecutionParts) {
    const { name, isolation } = parts.driver.capabilities;
    this.attemptId = assign.attemptId;
    this.acceptance = { driver: name, isolation };
    this.#task = assign.task;
    this.#parts = parts;
    this.#uptime = parts.uptime ?? uptimeClock();
    this.output = new AttemptOutput(assign.task.outputLimitBytes, parts.onNews, (stream, offset) =>
      this.#channel?.acknowledge(stream, offset),
    );
    this.done = this.#run();
  }

  get startedAtMs(): number | null {
    return this.#startedAtMs;
  }

  get ended(): AttemptEnded | null {
    return this.#ended === null || !this.#isFinal ? this.#ended : { ...this.#ended, final: true };
  }

  agentAgeMs(): number | null {
    const age = this.#channel?.ageMs() ?? null;
    return age === null ? null : Math.round(age);
  }

  /**
   * Ends the attempt from outside, unless its end is decided. A function that runs is asked to stop, and has its grace to do so; what it
   * writes meanwhile is delivered, and changes nothing of the end. What is revoked is killed at once.
   */
  stop(cause: StopCause): void {
    switch (cause) {
      case 'cancelled':
        return this.#ask({ kind: 'cancelled' });
      case 'host_reclaimed':
        return this.#ask({ kind: 'lost', cause: 'host_reclaimed' }, 'the worker is stopping');
      case 'revoked':
        // Nobody waits for its report any more, whatever it would say.
        this.#end = 'revoked';
        return this.#release();
      default:
        return assertNever(cause);
    }
  }

  loseOutput(): void {
    this.output.giveUp();
    this.#isFinal = true;
    this.#decide({ kind: 'lost', cause: 'output_lost' }, 'the control server lost output that it had acknowledged');
  }

  /** Decides the end, and gives the function time to stop by itself. */
  #ask(outcome: Outcome, message: string | null = null): void {
    if (this.#end !== null) return;
    this.#end = endOf(outcome, message);
    if (this.#channel === null || this.#runningSinceMs === null) return this.#release();
    const { stopSignal = constants.signals.SIGTERM, stopGraceMs = DEFAULT_STOP_GRACE_MS } = this.#task;
    this.#channel.signal(stopSignal);
    this.#grace = deadline(stopGraceMs, () => this.#release(), this.#uptime);
  }

  /** Ends the attempt, by this cause unless there was one before. */
  #decide(outcome: Outcome, message: string | null = null): void {
    this.#end ??= endOf(outcome, message);
    this.#release();
  }

  #release(): void {
    this.#stop.abort(new Decided());
    this.#decided.resolve();
  }

  async #run(): Promise<void> {
    const scope = new AsyncDisposableStack();
    await this.#prepare(scope).catch((error: unknown) => this.#decideByError(error));
    await this.#decided.promise;
    this.#grace?.[Symbol.dispose]();
    const channel = this.#channel;
    this.#channel = null;
    channel?.[Symbol.dispose]();
    const ended = await this.#conclude();
    await scope.disposeAsync().catch((error: unknown) => {
      // The end stands; what is left is told, and reclaimed at the next start.
      this.#parts.log.error({ err: error, attemptId: this.attemptId }, 'a sandbox could not be removed whole');
    });
    if (!this.#isRevoked()) this.#ended = ended;
    this.#parts.onNews();
  }

  /** Everything until the task is the agent's; from then on the conversation and the clocks decide. */
  async #prepare(scope: AsyncDisposableStack): Promise<void> {
    const signal = this.#stop.signal;
    const { blobs, driver } = this.#parts;
    const { image, code, memoryMiB, cpus, scratchMiB, prepareTimeoutMs } = this.#task;
    const late = () => this.#decide({ kind: 'timed_out', clock: 'prepare' });
    const prepareClock = scope.use(deadline(prepareTimeoutMs, late, this.#uptime));
    const { path: imagePath } = scope.use(await blobs.use(image, signal));
    const { path: codePath } = scope.use(await blobs.use(code, signal));
    const stdin = scope.use(await this.#openStdin(scope));
    const files = await this.#openFiles(scope);
    const listener: GuestListener = {
      started: () => {
        prepareClock[Symbol.dispose]();
        this.#started(scope);
      },
      output: (stream, data) => this.output.push(stream, data),
      ended: (frame) => this.#endedBy(frame),
      failed: (failure) => this.#failed(failure),
    };
    const spec = { name: this.attemptId, memoryMiB, cpus, scratchMiB, imagePath, codePath };
    const { sandbox, channel } = scope.use(await boot(spec, listener, signal, { ...this.#parts, driver }));
    this.#sandbox = sandbox;
    this.#channel = channel;
    this.#watch(scope, channel);
    const config = ociConfig({ ...this.#task, hostname: HOSTNAME });
    channel.start(Buffer.from(JSON.stringify(config)), stdin, this.#task.artifactsLimitBytes, files);
  }

  async #openFiles(scope: AsyncDisposableStack): Promise<GuestFile[]> {
    const { files, cwd, user } = this.#task;
    const opened: GuestFile[] = [];
    for (const file of files) {
      const content = await ('base64' in file
        ? stdinOfBytes(Buffer.from(file.base64, 'base64'))
        : stdinOfFile(scope.use(await this.#parts.blobs.use(refOf(file), this.#stop.signal)).path));
      opened.push({ path: posix.join(cwd, file.name), user: user.uid, group: user.gid, content: scope.use(content) });
    }
    return opened;
  }

  async #openStdin(scope: AsyncDisposableStack): Promise<StdinSource> {
    const { stdin } = this.#task;
    if (stdin === null) return stdinOfBytes(new Uint8Array(0));
    if ('base64' in stdin) return stdinOfBytes(Buffer.from(stdin.base64, 'base64'));
    return stdinOfFile(scope.use(await this.#parts.blobs.use(stdin, this.#stop.signal)).path);
  }

  /**
   * Pings the agent, and gives it up when it leaves as many pings in a row unanswered as fit into the limit. Pings are
   * counted, not time: a daemon that was stopped for a while has not listened either.
   */
  #watch(scope: AsyncDisposableStack, channel: GuestChannel): void {
    const pingMs = this.#parts.pingMs ?? AGENT_PING_MS;
    const limitMs = this.#parts.agentLostMs ?? AGENT_LOST_MS;
    let unanswered = 0;
    let lastAgeMs = 0;
    channel.ping();
    const timer = setInterval(() => {
      const ageMs = channel.ageMs() ?? 0;
      unanswered = ageMs < lastAgeMs + pingMs / 2 ? 1 : unanswered + 1;
      lastAgeMs = ageMs;
      if (unanswered * pingMs >= limitMs) {
        this.#decide({ kind: 'lost', cause: 'agent_lost' }, `the agent did not answer for ${limitMs} ms`);
      } else channel.ping();
    }, pingMs);
    scope.defer(() => clearInterval(timer));
  }

  #started(scope: AsyncDisposableStack): void {
    this.#startedAtMs = this.#uptime();
    this.#runningSinceMs = awakeClock();
    const late = () => this.#decide({ kind: 'timed_out', clock: 'run' });
    scope.use(deadline(this.#task.runTimeoutMs, late, this.#uptime));
    this.#parts.onNews();
  }

  #endedBy(frame: EndFrame): void {
    if (frame.type === 'EXIT') {
      const wallMs = this.#runningSinceMs === null ? null : awakeClock() - this.#runningSinceMs;
      this.#guest = { cpuMs: frame.cpuUs / 1000, memoryPeakBytes: frame.memoryPeakBytes, wallMs };
      this.#artifactFiles = frame.artifactFiles;
      return this.#decide(outcomeOf(frame), frame.refused === null ? null : frame.message);
    }
    switch (frame.stage) {
      case 'setup':
        return this.#decide({ kind: 'lost', cause: 'sandbox' }, frame.message);
      case 'image':
      case 'start':
        return this.#decide({ kind: 'not_started', cause: frame.stage }, frame.message);
      case 'protocol':
        return this.#decide({ kind: 'lost', cause: 'protocol' }, frame.message);
      default:
        return assertNever(frame.stage);
    }
  }

  #failed({ kind, message }: ChannelFailure): void {
    this.#decide({ kind: 'lost', cause: kind === 'protocol' ? 'protocol' : 'agent_lost' }, message);
  }

  /** The preparation failed by itself: whose fault it is, is in the error. */
  #decideByError(error: unknown): void {
    if (this.#end !== null) return;
    const cause = error instanceof CocoreError && error.code === 'blob_not_found' ? 'blob' : 'sandbox';
    this.#parts.log.warn({ err: error, attemptId: this.attemptId }, 'an attempt could not be prepared');
    this.#decide({ kind: 'lost', cause }, error instanceof Error ? error.message : null);
  }

  #isRevoked(): boolean {
    return this.#end === 'revoked';
  }

  /** Signs the end and writes it down, while the sandbox is still there. */
  async #conclude(): Promise<AttemptEnded | null> {
    const host = this.#sandbox === null ? null : await this.#sandbox.usage().catch(() => null);
    if (this.#end === null || this.#end === 'revoked') return null;
    const facts = {
      attemptId: this.attemptId,
      outcome: this.#end.outcome,
      ...this.output.end(),
      artifactFiles: this.#artifactFiles,
      usage: { host, guest: this.#guest },
    };
    const signature = this.#parts.sign(endStatement(facts));
    const ended: AttemptEnded = { type: 'AttemptEnded', ...facts, message: this.#end.message, signature };
    const agoMs = this.#startedAtMs === null ? null : Math.max(0, this.#uptime() - this.#startedAtMs);
    const startedAtMs = agoMs === null ? null : Date.now() - agoMs;
    await this.#parts.journal.write({ version: 1, ...this.acceptance, startedAtMs, ended });
    return ended;
  }
}

const endOf = (outcome: Outcome, message: string | null): AttemptEnd => ({
  outcome,
  message: message === null ? null : message.slice(0, MAX_MESSAGE_LENGTH).toWellFormed(),
});

const refOf = ({ digest, bytes }: BlobRef): BlobRef => ({ digest, bytes });

/** A process that failed by itself says more than what could not be taken of it. */
function outcomeOf({ kind, code, oom, refused }: Extract<EndFrame, { type: 'EXIT' }>): Outcome {
  if (oom) return { kind: 'oom' };
  if (kind === 'signaled') return { kind: 'signaled', signal: code };
  if (code !== 0 || refused === null) return { kind: 'exited', code };
  return { kind: 'rejected', cause: refused === 'result' ? 'result_invalid' : 'artifacts_too_large' };
}
