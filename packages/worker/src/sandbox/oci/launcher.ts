import { FAULT_STAGES, type FaultStage, REFUSED, type Refused } from '@cocore/protocol';
import type { Duplex } from 'node:stream';

/** What the launcher says, a line each (`launcher/keeper.c`). */
export type LauncherNews =
  /** The jail stands; the function's pipes can be opened. */
  | { readonly type: 'ready' }
  | { readonly type: 'started' }
  /** The function's process has ended, and so has every other of the sandbox. */
  | { readonly type: 'exited'; readonly code: number }
  | { readonly type: 'signaled'; readonly signal: number }
  /** What the function left and cannot be taken; before `left`. */
  | { readonly type: 'unfit'; readonly refused: Refused; readonly message: string }
  /** What the function left has been given, with this many files among the artifacts. It is the last word after an end. */
  | { readonly type: 'left'; readonly files: number }
  /** The runtime ended, before or after the start, and did not say how the container did; with the last line of its log. */
  | { readonly type: 'refused'; readonly log: string }
  | { readonly type: 'lost'; readonly log: string }
  | { readonly type: 'fault'; readonly stage: FaultStage; readonly errno: number; readonly message: string };

const MAX_LINE_BYTES = 2048;

export function parseNews(line: string): LauncherNews | null {
  const [word, number] = line.split(' ');
  switch (word) {
    case 'ready':
    case 'started':
      return { type: word };
    case 'refused':
    case 'lost':
      return { type: word, log: line.slice(word.length + 1) };
    case 'exited':
      return { type: 'exited', code: Number(number) & 0xff };
    case 'signaled':
      return { type: 'signaled', signal: Number(number) };
    case 'left':
      return { type: 'left', files: Number(number) };
    case 'unfit': {
      const refused = REFUSED.find((name) => name === number);
      return refused === undefined ? null : { type: 'unfit', refused, message: line.slice(`unfit ${refused} `.length) };
    }
    case 'fault': {
      const match = /^fault (\w+) (\d+) (.*)$/.exec(line);
      const stage = FAULT_STAGES.find((name) => name === match?.[1]);
      if (match === null || stage === undefined) return null;
      return { type: 'fault', stage, errno: Number(match[2]), message: match[3]! };
    }
    default:
      return null;
  }
}

/** The control socket of one launcher: orders go out, news come in until it ends. */
export class LauncherControl {
  readonly #socket: Duplex;

  constructor(socket: Duplex, onNews: (news: LauncherNews) => void) {
    this.#socket = socket;
    let held = '';
    socket.on('data', (bytes: Buffer) => {
      const lines = `${held}${bytes.toString('utf8')}`.split('\n');
      held = lines.pop()!.slice(0, MAX_LINE_BYTES);
      for (const line of lines) {
        const news = parseNews(line);
        if (news !== null) onNews(news);
      }
    });
    // A launcher that is gone takes no orders; its end is seen at the process.
    socket.on('error', () => undefined);
  }

  /** Starts the runtime; the bundle is written and the pipes are open. */
  run(artifactsLimit: number): void {
    this.#order('r', artifactsLimit);
  }

  /** Begins an input file, whose bytes follow by `fileData`; before `run`. */
  file(path: string, user: number, group: number, size: number): void {
    const name = Buffer.from(path);
    const header = Buffer.alloc(12);
    header.writeUInt32LE(user, 0);
    header.writeUInt32LE(group, 4);
    header.writeUInt32LE(name.length, 8);
    this.#order('f', size);
    if (this.#socket.writable) this.#socket.write(Buffer.concat([header, name]));
  }

  /** False when nothing more should be given until `drained`. */
  fileData(data: Uint8Array): boolean {
    return !this.#socket.writable || this.#socket.write(data);
  }

  drained(): Promise<void> {
    return new Promise((resolve) => {
      if (!this.#socket.writable) return resolve();
      this.#socket.once('drain', resolve);
      this.#socket.once('close', resolve);
    });
  }

  signal(number: number): void {
    this.#order('s', number);
  }

  /** Ends the sandbox. */
  close(): void {
    this.#socket.destroy();
  }

  #order(letter: string, value: number): void {
    const order = Buffer.alloc(9, letter, 'latin1');
    order.writeBigUInt64LE(BigInt(value), 1);
    if (this.#socket.writable) this.#socket.write(order);
  }
}
