import {
  AGENT_LOST_MS,
  AGENT_PING_MS,
  assertNever,
  type AttemptAssign,
  type AttemptEnded,
  type AttemptStream,
  type BlobRef,
  CocoreError,
  DEFAULT_STOP_GRACE_MS,
  type EgressUsage,
  endStatement,
  type GuestFrame,
  type MeterReading,
  type OfStreams,
  type Outcome,
  type TaskSpec,
} from '@cocore/protocol';
import { constants } from 'node:os';
import { posix } from 'node:path';
import type { Logger } from 'pino';
import type { BlobCache, BlobLease } from '../blobs/blob-cache.ts';
import { type ChannelFailure, GuestChannel, type GuestFile, type GuestListener } from '../guest/channel.ts';
import { ociConfigText } from '../guest/oci-config.ts';
import { type StdinSource, stdinOfBytes, stdinOfFile } from '../guest/stdin.ts';
import { awakeClock, type Clock, deadline, uptimeClock } from '../host/clock.ts';
import type { EgressNetwork } from '../network/egress.ts';
import type { Networks } from '../network/networks.ts';
import type { Sandbox, SandboxDriver } from '../sandbox/driver.ts';
import type { Acceptance, Attempt, AttemptEnd, StopCause } from './attempt.ts';
import { AttemptOutput } from './attempt-output.ts';
import { type AttemptEntry, type AttemptRecords, RunningTask } from './attempt-records.ts';
import { answer, boot } from './boot.ts';
import type { EndJournal } from './end-journal.ts';

export interface ExecutionParts {
  readonly driver: SandboxDriver;
  /** Without it, no function is given a network. */
  readonly networks?: Pick<Networks, 'make'>;
  readonly blobs: Pick<BlobCache, 'use'>;
  readonly log: Logger;
  /** What an end carries as its signature by the worker's key. */
  readonly sign: (endStatement: string) => string | Promise<string>;
  readonly journal: Pick<EndJournal, 'write'>;
  /** For sandboxes that outlive the daemon; without it none is taken up by a later life. */
  readonly records?: Pick<AttemptRecords, 'bootId' | 'write' | 'remove'>;
  /** Something of the attempt is ready to be reported or sent. */
  readonly onNews: (attempt: Attempt) => void;
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
/** One for all: making an error costs more than what it says. */
const DECIDED = new Decided();

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
  readonly #task: RunningTask;
  readonly #parts: ExecutionParts;
  readonly #uptime: Clock;
  readonly #stop = new AbortController();
  readonly #decided = Promise.withResolvers<void>();
  readonly #acceptanceCommitted = Promise.withResolvers<void>();
  #end: AttemptEnd | 'revoked' | null = null;
  #fetching: BlobRef | null = null;
  #startedAtMs: number | null = null;
  #ended: AttemptEnded | null = null;
  #channel: GuestChannel | null = null;
  #sandbox: Sandbox | null = null;
  #runningSinceMs: number | null = null;
  #guest: MeterReading | null = null;
  #artifactFiles = 0;
  #network: EgressNetwork | null = null;
  #isFinal = false;
  #isResumed = false;
  #isRecorded = false;
  /** Present from the moment that the function was asked to stop. */
  #grace: Disposable | null = null;

  /** Where an attempt of an earlier life goes on; it waits for the first session that says so. Null for one that began in this life. */
  readonly #resumed: PromiseWithResolvers<OfStreams<number>> | null;

  /** @param begun what is taken up instead of being prepared */
  private constructor(
    attemptId: string,
    acceptance: Acceptance,
    work: { readonly task: TaskSpec } | { readonly begun: AttemptEntry; readonly sandbox: Sandbox },
    parts: ExecutionParts,
  ) {
    this.attemptId = attemptId;
    this.acceptance = acceptance;
    this.#task = 'task' in work ? work.task : work.begun.task;
    this.#resumed = 'task' in work ? null : Promise.withResolvers();
    this.#parts = parts;
    this.#uptime = parts.uptime ?? uptimeClock();
    this.output = new AttemptOutput(
      this.#task.outputLimitBytes,
      () => parts.onNews(this),
      (stream, offset) => this.#channel?.acknowledge(stream, offset),
    );
    this.done = this.#run((scope) =>
      'task' in work ? this.#prepare(scope, work.task) : this.#takeUp(scope, work.begun, work.sandbox),
    );
  }

  static begin({ attemptId, task }: Pick<AttemptAssign, 'attemptId' | 'task'>, parts: ExecutionParts): Execution {
    const { name, isolation } = parts.driver.capabilities;
    return new Execution(attemptId, { driver: name, isolation }, { task }, parts);
  }

  /** Goes on with an attempt of an earlier life of the daemon, whose sandbox the driver has recovered. */
  static takeUp(begun: AttemptEntry, sandbox: Sandbox, parts: ExecutionParts): Execution {
    const { attemptId, driver, isolation } = begun;
    return new Execution(attemptId, { driver, isolation }, { begun, sandbox }, parts);
  }

  get fetching(): BlobRef | null {
    return this.#fetching;
  }

  get startedAtMs(): number | null {
    return this.#startedAtMs;
  }

  get ended(): AttemptEnded | null {
    return this.#ended === null || !this.#isFinal ? this.#ended : { ...this.#ended, final: true };
  }

  /** Whether others could see what it does. */
  get hasNetwork(): boolean {
    return this.#task.network.mode !== 'none';
  }

  agentAgeMs(): number | null {
    const age = this.#channel?.ageMs() ?? null;
    return age === null ? null : Math.round(age);
  }

  /**
   * Ends the attempt from outside, unless its end is decided. A function that runs is asked to stop, and has its grace to do so; what it
   * writes meanwhile is delivered, and changes nothing of the end. What is given up, cut off or revoked is killed at once.
   */
  stop(cause: StopCause): void {
    switch (cause) {
      case 'cancelled':
        return this.#ask({ kind: 'cancelled' });
      case 'host_reclaimed':
        return this.#ask({ kind: 'lost', cause: 'host_reclaimed' }, 'the worker is stopping');
      case 'given_up':
        return this.#decide({ kind: 'lost', cause: 'host_lost' }, 'the control server had given it up');
      case 'cut_off':
        return this.#decide({ kind: 'lost', cause: 'host_lost' }, 'the control server was not heard for too long');
      case 'revoked':
        // Nobody waits for its report any more, whatever it would say.
        this.#end = 'revoked';
        return this.#release();
      default:
        return assertNever(cause);
    }
  }

  resume(offsets: OfStreams<number>): AttemptStream[] {
    if (this.#resumed === null || this.#isResumed) return this.output.resumeAll(offsets);
    if (this.#ended !== null) return [];
    this.#isResumed = true;
    this.output.beginAt(offsets);
    this.#resumed.resolve(offsets);
    return [];
  }

  loseOutput(): void {
    this.output.giveUp();
    this.#isFinal = true;
    this.#decide({ kind: 'lost', cause: 'output_lost' }, 'the control server lost output that it had acknowledged');
  }

  /** Nobody else is given the attempt: what others could see may begin. */
  acceptanceCommitted(): void {
    this.#acceptanceCommitted.resolve();
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
    this.#stop.abort(DECIDED);
    this.#decided.resolve();
  }

  async #run(begin: (scope: AsyncDisposableStack) => Promise<void>): Promise<void> {
    const scope = new AsyncDisposableStack();
    await begin(scope).catch((error: unknown) => this.#decideByError(error));
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
    await this.#forgetRecord();
    if (!this.#isRevoked()) this.#ended = ended;
    this.#parts.onNews(this);
  }

  /** Everything until the task is the agent's; from then on the conversation and the clocks decide. */
  async #prepare(scope: AsyncDisposableStack, task: TaskSpec): Promise<void> {
    const signal = this.#stop.signal;
    const { driver } = this.#parts;
    const { image, code, memoryMiB, cpus, scratchMiB, prepareTimeoutMs } = task;
    const late = () => this.#decide({ kind: 'timed_out', clock: 'prepare' });
    const prepareClock = scope.use(deadline(prepareTimeoutMs, late, this.#uptime));
    const { path: imagePath } = scope.use(await this.#useBlob(image));
    const { path: codePath } = scope.use(await this.#useBlob(code));
    const stdin = scope.use(await this.#openStdin(scope));
    const network = await this.#makeNetwork();
    const files = [...(await this.#openFiles(scope, task)), ...(network === null ? [] : [nameServerFile(network)])];
    const listener = this.#listener(() => {
      prepareClock[Symbol.dispose]();
      this.#started(scope, this.#uptime());
      this.#record();
    });
    const drives = { imagePath, codePath, scratchMiB };
    const spec = { name: this.attemptId, memoryMiB, cpus, ...drives, ...(network === null ? {} : { network }) };
    const { sandbox, channel } = scope.use(await boot(spec, listener, signal, { ...this.#parts, driver }));
    this.#sandbox = sandbox;
    this.#channel = channel;
    this.#watch(scope, channel);
    const config = ociConfigText({ ...task, hostname: HOSTNAME, hasNetwork: this.hasNetwork });
    if (this.hasNetwork) await Promise.race([this.#acceptanceCommitted.promise, this.#decided.promise]);
    signal.throwIfAborted();
    channel.start(Buffer.from(config), stdin, task.artifactsLimitBytes, files);
  }

  /** The agent is greeted and kept alive at once, and heard once the control server has said what it has. Its time counts from then too. */
  async #takeUp(scope: AsyncDisposableStack, { startedAtMs }: AttemptEntry, sandbox: Sandbox): Promise<void> {
    const signal = this.#stop.signal;
    const { driver, pingMs = AGENT_PING_MS, log } = this.#parts;
    this.#isRecorded = true;
    this.#startedAtMs = startedAtMs;
    this.#sandbox = scope.use(sandbox);
    const channel = scope.use(
      new GuestChannel(
        sandbox.agent,
        this.#listener(() => undefined),
      ),
    );
    try {
      await answer(() => channel.takeUp(), driver.capabilities.bootDeadlineMs, signal);
    } catch (error) {
      signal.throwIfAborted();
      log.warn({ err: error, attemptId: this.attemptId }, 'an agent of an earlier life does not answer');
      return this.#decide({ kind: 'lost', cause: 'host_lost' }, 'its agent did not answer a new life of the daemon');
    }
    this.#channel = channel;
    const stdin = scope.use(await this.#openStdin(scope));
    channel.ping();
    const pings = setInterval(() => channel.ping(), pingMs);
    scope.defer(() => clearInterval(pings));
    const heard = await Promise.race([this.#resumed!.promise, this.#decided.promise.then(() => null)]);
    clearInterval(pings);
    if (heard === null) return;
    channel.resume(stdin, this.#task.artifactsLimitBytes, heard);
    this.#watch(scope, channel);
    this.#started(scope, startedAtMs);
  }

  #listener(started: () => void): GuestListener {
    return {
      started,
      output: (stream, data) => {
        this.output.push(stream, data);
        // The agent is told that it is kept, and it is not: a later life could not tell how much of it.
        if (this.output.isCut) void this.#forgetRecord();
      },
      ended: (frame) => this.#endedBy(frame),
      failed: (failure) => this.#failed(failure),
    };
  }

  /** From now on a later life of the daemon can go on with it. One with a network cannot: nobody counts meanwhile how long it is not heard. */
  #record(): void {
    const { driver, records } = this.#parts;
    if (records === undefined || !driver.capabilities.recover || this.hasNetwork) return;
    this.#isRecorded = true;
    const sandbox = this.#sandbox!;
    const written = records.write({
      version: 1,
      attemptId: this.attemptId,
      ...this.acceptance,
      handle: sandbox.handle,
      task: RunningTask.parse(this.#task),
      startedAtMs: this.#startedAtMs!,
      bootId: records.bootId,
    });
    // What nobody has written down dies with the daemon.
    void written.then((isWritten) => (isWritten && this.#isRecorded ? sandbox.outlive?.() : undefined));
  }

  async #forgetRecord(): Promise<void> {
    if (!this.#isRecorded) return;
    this.#isRecorded = false;
    await this.#parts.records?.remove(this.attemptId);
  }

  async #useBlob(ref: BlobRef): Promise<BlobLease> {
    const { blobs, onNews } = this.#parts;
    const tell = (fetching: BlobRef | null) => {
      this.#fetching = fetching;
      onNews(this);
    };
    try {
      return await blobs.use(ref, this.#stop.signal, () => tell(ref));
    } finally {
      if (this.#fetching !== null) tell(null);
    }
  }

  /** @throws CocoreError `host_unfit` where a function that has a network cannot be given one: it never runs without */
  async #makeNetwork(): Promise<EgressNetwork | null> {
    const { network } = this.#task;
    const { networks, driver } = this.#parts;
    if (network.mode === 'none') return null;
    if (networks === undefined || !driver.capabilities.network) {
      throw new CocoreError('host_unfit', 'this worker gives no function a network');
    }
    const lost = () => this.#decide({ kind: 'lost', cause: 'sandbox' }, 'its network ended: the gate was gone');
    this.#network = await networks.make({
      name: this.attemptId,
      network,
      onLimited: () =>
        this.#parts.log.info({ attemptId: this.attemptId }, 'the bytes of an attempt’s network are used up'),
      // Before, and when the end is decided, it goes with the sandbox.
      onLost: () => (this.#channel === null ? undefined : lost()),
    });
    return this.#network;
  }

  async #openFiles(scope: AsyncDisposableStack, { files, cwd, user }: TaskSpec): Promise<GuestFile[]> {
    const opened: GuestFile[] = [];
    for (const file of files) {
      const content = await ('base64' in file
        ? stdinOfBytes(Buffer.from(file.base64, 'base64'))
        : stdinOfFile(scope.use(await this.#useBlob(refOf(file))).path));
      opened.push({ path: posix.join(cwd, file.name), user: user.uid, group: user.gid, content: scope.use(content) });
    }
    return opened;
  }

  async #openStdin(scope: AsyncDisposableStack): Promise<StdinSource> {
    const { stdin } = this.#task;
    if (stdin === null) return stdinOfBytes(new Uint8Array(0));
    if ('base64' in stdin) return stdinOfBytes(Buffer.from(stdin.base64, 'base64'));
    return stdinOfFile(scope.use(await this.#useBlob(stdin)).path);
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

  #started(scope: AsyncDisposableStack, startedAtMs: number): void {
    const agoMs = this.#uptime() - startedAtMs;
    this.#startedAtMs = startedAtMs;
    this.#runningSinceMs = awakeClock() - agoMs;
    const late = () => this.#decide({ kind: 'timed_out', clock: 'run' });
    scope.use(deadline(Math.max(0, this.#task.runTimeoutMs - agoMs), late, this.#uptime));
    this.#parts.onNews(this);
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
    const egress = await this.#network?.usage();
    const facts = {
      attemptId: this.attemptId,
      outcome: this.#end.outcome,
      ...this.output.end(),
      artifactFiles: this.#artifactFiles,
      usage: { host, guest: this.#guest, ...(egress === undefined ? {} : { egress }) },
    };
    const message = this.#end.message ?? messageOf(egress);
    const signature = await this.#parts.sign(endStatement(facts));
    if (this.#isRevoked()) return null;
    const ended: AttemptEnded = { type: 'AttemptEnded', ...facts, message, signature };
    const agoMs = this.#startedAtMs === null ? null : Math.max(0, this.#uptime() - this.#startedAtMs);
    const startedAtMs = agoMs === null ? null : Date.now() - agoMs;
    await this.#parts.journal.write({ version: 1, ...this.acceptance, startedAtMs, ended });
    return ended;
  }
}

const messageOf = (egress: EgressUsage | undefined): string | null =>
  egress?.limited === true ? 'as many bytes had passed its network as may: it was cut' : null;

/** Where the function finds its name server, whatever its image says. */
function nameServerFile({ resolvConf }: EgressNetwork): GuestFile {
  return { path: '/etc/resolv.conf', user: 0, group: 0, content: stdinOfBytes(Buffer.from(resolvConf)) };
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
