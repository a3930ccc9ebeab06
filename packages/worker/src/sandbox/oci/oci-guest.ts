import {
  assertNever,
  ATTEMPT_STREAMS,
  encodeGuestFrame,
  type FaultStage,
  FRAME_OF_STREAM,
  GUEST_FRAME_VERSION,
  type GuestFrame,
  type HostFrame,
  hostFrameDecoder,
  type OfStreams,
  ofStreams,
  type Refused,
} from '@cocore/protocol';
import { constants } from 'node:os';
import type { Duplex, Readable } from 'node:stream';
import type { Cgroup } from '../../cgroup/cgroup.ts';
import { lastLine } from '../console-ring.ts';
import { FunctionInput } from './function-input.ts';
import { FunctionOutput } from './function-output.ts';
import { type FunctionPipes, openPipes } from './function-pipes.ts';
import type { LauncherControl, LauncherNews } from './launcher.ts';

export interface OciGuestParts {
  /** The guest's end of the conversation. */
  readonly stream: Duplex;
  /** Where the launcher makes the function's pipes. */
  readonly directory: string;
  /** Where the launcher gives what the function left. */
  readonly left: { readonly result: Readable; readonly artifacts: Readable };
  readonly agentVersion: string;
  readonly cgroup: Cgroup;
  /** Writes the runtime's bundle for a task. */
  readonly writeBundle: (task: Uint8Array) => Promise<void>;
}

interface Streams extends OfStreams<FunctionOutput> {
  readonly stdin: FunctionInput;
}

type LauncherFault = Extract<LauncherNews, { type: 'fault' }>;
/** What is asked while the function runs; the kernel tells nobody. */
const OOM_LOOK_MS = 250;

/**
 * What stands in the agent's place where there is no guest: it speaks the agent's frames in the daemon's process, and runs the task through
 * the launcher. It keeps to the credits of `docs/reference/guest-frames.md` in both directions. Two things of the agent it does not
 * do: it takes one connection only, and needs no ping to live, because it ends with the daemon.
 */
export class OciGuest implements Disposable {
  readonly #parts: OciGuestParts;
  readonly #decoder = hostFrameDecoder();
  readonly #jail = Promise.withResolvers<LauncherFault | null>();
  #control: LauncherControl | null = null;
  #pipes: FunctionPipes | null = null;
  #streams: Streams | null = null;
  #state: 'new' | 'greeted' | 'tasked' | 'running' | 'ending' | 'ended' = 'new';
  #oomLook: NodeJS.Timeout | undefined;
  /** Of the input file that is being given. */
  #fileLeft = 0;
  #unfit: { readonly refused: Refused; readonly message: string } | null = null;
  /** The number of files among the artifacts, once all that the function left has been given. */
  readonly #left = Promise.withResolvers<number>();

  constructor(parts: OciGuestParts) {
    this.#parts = parts;
    parts.stream.on('error', () => undefined);
    parts.stream.on('drain', () => this.#pump());
    parts.stream.on('data', (bytes: Uint8Array) => {
      try {
        for (const frame of this.#decoder.push(bytes)) this.#receive(frame);
      } catch (error) {
        this.#fault('protocol', 0, error instanceof Error ? error.message : 'a frame cannot be read');
      }
    });
  }

  attach(control: LauncherControl): void {
    this.#control = control;
  }

  /** The sandbox is given up: nothing more is read, written or said. */
  [Symbol.dispose](): void {
    this.#state = 'ended';
    clearInterval(this.#oomLook);
    this.#pipes?.[Symbol.dispose]();
    this.#parts.stream.destroy();
  }

  launcherSays(news: LauncherNews): void {
    switch (news.type) {
      case 'ready':
        return this.#jail.resolve(null);
      case 'started':
        return this.#started();
      case 'exited':
        return void this.#end('exited', news.code);
      case 'signaled':
        return void this.#end('signaled', news.signal);
      case 'unfit':
        this.#unfit = news;
        return;
      case 'left':
        return this.#left.resolve(news.files);
      case 'refused':
        return void this.#refused(news.log);
      case 'lost':
        return void this.#lost(`the runtime ended without saying how the container did: ${news.log}`);
      case 'fault':
        // A jail that could not be made is told when there is a task; a file that could not, at once.
        if (this.#state === 'tasked' || (this.#state === 'greeted' && this.#streams !== null))
          this.#fault(news.stage, news.errno, news.message);
        return this.#jail.resolve(news);
      default:
        return assertNever(news);
    }
  }

  /** The launcher's process is gone, and with it every other of the sandbox; resolves when what it left has been told. */
  async launcherEnded(why: string): Promise<void> {
    this.#jail.resolve({ type: 'fault', stage: 'setup', errno: 0, message: why });
    this.#left.resolve(0);
    if (this.#state === 'tasked' || this.#state === 'running') await this.#lost(why);
    this.#parts.stream.end();
  }

  #receive(frame: HostFrame): void {
    if (frame.type === 'PING') return void this.#send({ type: 'PONG', token: frame.token });
    if (frame.type === 'POWEROFF') return this.#control?.close();
    if (this.#state === 'ending' || this.#state === 'ended') return;
    const { type } = frame;
    const streams = this.#streams;
    if (streams === null && !['HELLO', 'SEED', 'FILE', 'FILE_DATA', 'TASK'].includes(type)) {
      // Without a jail the task's fault is on its way.
      return this.#expect(this.#state === 'tasked', `a ${type} before the task`);
    }
    switch (frame.type) {
      case 'HELLO':
        this.#expect(this.#state === 'new', 'a second HELLO');
        this.#state = 'greeted';
        return void this.#greet(frame.nonce.slice());
      case 'SEED':
        // Clock and entropy are the host's own.
        return this.#expect(this.#state === 'greeted', 'a SEED out of order');
      case 'FILE':
        this.#expect(this.#state === 'greeted' && this.#fileLeft === 0, 'a FILE out of order');
        this.#fileLeft = frame.size;
        return this.#control?.file(frame.path, frame.user, frame.group, frame.size);
      case 'FILE_DATA':
        this.#expect(this.#state === 'greeted' && frame.data.length <= this.#fileLeft, 'a FILE_DATA out of order');
        this.#fileLeft -= frame.data.length;
        return this.#giveFile(frame.data.slice());
      case 'TASK':
        this.#expect(this.#state === 'greeted' && this.#fileLeft === 0, 'a TASK out of order');
        this.#state = 'tasked';
        return void this.#start(frame.config.slice(), frame.artifactsLimit);
      case 'STDIN':
        return this.#expect(streams!.stdin.push(frame.offset, frame.data), 'standard input out of order');
      case 'STDIN_END':
        return this.#expect(streams!.stdin.end(frame.length), 'an end of standard input out of order');
      case 'SIGNAL':
        return this.#control?.signal(frame.signal);
      case 'ACK':
        return this.#expect(streams![frame.stream].acknowledge(frame.offset), 'an ACK of what was not sent');
      default:
        return assertNever(frame);
    }
  }

  /** The host is read no faster than the launcher takes what it sends. */
  #giveFile(data: Uint8Array): void {
    const control = this.#control;
    if (control === null || control.fileData(data)) return;
    this.#parts.stream.pause();
    void control.drained().then(() => this.#parts.stream.resume());
  }

  /** A jail that could not be made is told when there is a task to fault. */
  async #greet(nonce: Uint8Array): Promise<void> {
    const fault = await this.#jail.promise;
    if (fault === null && this.#state === 'greeted') {
      this.#pipes = openPipes(this.#parts.directory);
      const { stdin, ...outputs } = this.#pipes;
      const pipes: OfStreams<Readable> = { ...outputs, ...this.#parts.left };
      this.#streams = {
        stdin: new FunctionInput(stdin, (offset) => {
          if (this.#state === 'running') this.#send({ type: 'STDIN_ACK', offset });
        }),
        ...ofStreams(
          (name) =>
            new FunctionOutput(pipes[name], (offset, data) =>
              this.#send({ type: FRAME_OF_STREAM[name], offset, data }),
            ),
        ),
      };
    }
    this.#send({ type: 'HELLO', version: GUEST_FRAME_VERSION, nonce, agentVersion: this.#parts.agentVersion });
  }

  async #start(task: Uint8Array, artifactsLimit: number): Promise<void> {
    const fault = await this.#jail.promise;
    if (fault !== null) return this.#fault(fault.stage, fault.errno, fault.message);
    try {
      await this.#parts.writeBundle(task);
    } catch (error) {
      return this.#fault('start', 0, error instanceof Error ? error.message : 'the bundle cannot be written');
    }
    this.#control?.run(artifactsLimit);
  }

  #started(): void {
    const streams = this.#streams;
    if (this.#state !== 'tasked' || streams === null) return;
    this.#state = 'running';
    this.#send({ type: 'STARTED', monotonicNs: process.hrtime.bigint() });
    streams.stdin.tell();
    streams.stdout.open();
    streams.stderr.open();
    this.#oomLook = setInterval(() => void this.#killWhole(), OOM_LOOK_MS);
  }

  /** A function that met its memory limit is not left half alive, where the kernel kills one process only. */
  async #killWhole(): Promise<void> {
    if (((await this.#parts.cgroup.oomKills()) ?? 0) === 0 || this.#state !== 'running') return;
    clearInterval(this.#oomLook);
    await this.#parts.cgroup.killAll();
  }

  /** Every byte was written and every writer is dead: what is in the pipes goes out, then what the function left, then the end. */
  async #end(kind: 'exited' | 'signaled', code: number): Promise<void> {
    if (this.#state !== 'running' || this.#streams === null) return;
    clearInterval(this.#oomLook);
    const { stdout, stderr, result, artifacts } = this.#streams;
    await Promise.all([stdout.over, stderr.over]);
    for (const stream of [result, artifacts]) {
      stream.open();
      await stream.over;
    }
    const artifactFiles = await this.#left.promise;
    const { cpuMs, memoryPeakBytes } = await this.#parts.cgroup.usage();
    const oom = ((await this.#parts.cgroup.oomKills()) ?? 0) > 0;
    if (this.#state !== 'running') return;
    this.#state = 'ending';
    this.#send({
      type: 'EXIT',
      kind,
      code,
      oom,
      stdoutLength: stdout.length,
      stderrLength: stderr.length,
      resultLength: result.length,
      artifactsLength: artifacts.length,
      artifactFiles,
      cpuUs: Math.round((cpuMs ?? 0) * 1000),
      memoryPeakBytes: memoryPeakBytes ?? 0,
      refused: this.#unfit?.refused ?? null,
      message: this.#unfit?.message ?? '',
    });
  }

  async #refused(log: string): Promise<void> {
    if (this.#state !== 'tasked') return;
    const said = (await this.#streams?.stderr.rest()) ?? Buffer.alloc(0);
    this.#fault('start', 0, lastLine(said.toString('utf8'), 500) || log || 'the runtime did not start the container');
  }

  /** The end of the container is not known. Where the kernel killed for memory, it is known enough. */
  async #lost(why: string): Promise<void> {
    const kills = (await this.#parts.cgroup.oomKills().catch(() => null)) ?? 0;
    if (kills > 0 && this.#state === 'running') return this.#end('signaled', constants.signals.SIGKILL);
    this.#fault('setup', 0, kills > 0 ? 'the runtime had too little memory' : why);
  }

  #fault(stage: FaultStage, errno: number, message: string): void {
    if (this.#state === 'ending' || this.#state === 'ended') return;
    clearInterval(this.#oomLook);
    this.#state = 'ending';
    this.#send({ type: 'FAULT', stage, errno, message });
    if (stage === 'protocol') this.#control?.close();
  }

  #expect(condition: boolean, otherwise: string): void {
    if (!condition) throw new Error(`the host sent ${otherwise}`);
  }

  #pump(): void {
    for (const stream of ATTEMPT_STREAMS) this.#streams?.[stream].pump();
  }

  /** False when nothing more should be sent until the host has read. */
  #send(frame: GuestFrame): boolean {
    const { stream } = this.#parts;
    return stream.writable && stream.write(encodeGuestFrame(frame));
  }
}
