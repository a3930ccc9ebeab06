import { spawn } from 'node:child_process';

const MAX_KEPT_BYTES = 64 * 1024;

export interface Finished {
  readonly ok: boolean;
  /** At most `maxOutputBytes` of standard output; what is more makes `ok` false. */
  readonly stdout: Buffer;
  /** The last 64 KiB of standard error. */
  readonly stderr: string;
}

/**
 * Runs a program of the host's in the jail, without a shell.
 *
 * @param options.uid the id inside the jail; 0, the inside's own, when absent
 */
export async function run(
  program: string,
  args: readonly string[],
  options: { uid?: number; maxOutputBytes?: number; env?: Record<string, string> } = {},
): Promise<Finished> {
  const child = spawn('prlimit', ['--as=4294967296', '--', program, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  const maxOutputBytes = options.maxOutputBytes ?? MAX_KEPT_BYTES;
  const chunks: Buffer[] = [];
  let bytes = 0;
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= maxOutputBytes) chunks.push(chunk);
  });
  child.stderr.setEncoding('latin1').on('data', (text: string) => {
    stderr = (stderr + text).slice(-MAX_KEPT_BYTES);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { ok: code === 0 && bytes <= maxOutputBytes, stdout: Buffer.concat(chunks), stderr };
}
