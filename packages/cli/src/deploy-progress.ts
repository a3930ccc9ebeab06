import type { BuildOutput, DeployProgress } from '@cocore/protocol';
import { plain } from './print.ts';

interface Terminal {
  readonly isTTY?: boolean;
  write(text: string | Uint8Array): unknown;
}

const SAID: Record<DeployProgress['step'], string> = {
  waiting: 'waiting for other imports',
  resolving: 'looking the image up',
  pulling: 'pulling the image',
  unpacking: 'unpacking the image',
  packing: 'making the root file system',
  building: 'building',
};

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** One line of what is going on. */
export function progressLine({ step, bytes, totalBytes, layers, totalLayers, waiting }: DeployProgress): string {
  const parts = [SAID[step]];
  if (waiting !== undefined) parts.push(plain(waiting));
  if (layers !== undefined && totalLayers !== undefined && totalLayers > 0)
    parts.push(`layer ${layers}/${totalLayers}`);
  if (bytes !== undefined && bytes > 0) {
    parts.push(totalBytes === undefined || totalBytes === 0 ? mib(bytes) : `${mib(bytes)} of ${mib(totalBytes)}`);
  }
  return parts.join(', ');
}

/** Says on standard error how far a deployment is: a line that changes on a terminal, elsewhere a line for each step. */
export class DeployProgressPrinter {
  readonly #out: Terminal;
  #said = '';
  #isLineOpen = false;

  constructor(out: Terminal) {
    this.#out = out;
  }

  progress(progress: DeployProgress): void {
    if (this.#out.isTTY === true) {
      this.#out.write(`\r\u001b[K${progressLine(progress)}`);
      this.#isLineOpen = true;
      return;
    }
    const { step, waiting } = progress;
    const line = progressLine({ step, ...(waiting === undefined ? {} : { waiting }) });
    if (line !== this.#said) this.#out.write(`${line}\n`);
    this.#said = line;
  }

  output({ base64 }: BuildOutput): void {
    this.end();
    this.#out.write(Buffer.from(base64, 'base64'));
  }

  /** Leaves the terminal at the beginning of an empty line. */
  end(): void {
    if (this.#isLineOpen) this.#out.write('\r\u001b[K');
    this.#isLineOpen = false;
  }
}
