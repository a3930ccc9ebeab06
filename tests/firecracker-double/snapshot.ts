import { once } from 'node:events';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Settings } from './place.ts';
import { type MachineConfig, QemuMachine } from './qemu-machine.ts';

/** What the double keeps of a machine beside its memory: QEMU has the rest of its state in the same stream as the memory. */
export interface SavedState {
  readonly config: MachineConfig;
  readonly vsockPath: string | null;
  readonly isListening: boolean;
}

const BYTES_PER_SECOND = 100 * 2 ** 30;
const LOOK_MS = 5;

/**
 * Writes a paused machine down, over a socket: QEMU's own sandbox keeps it from other ways.
 *
 * @throws Error when a file cannot be written
 */
export async function saveMachine(
  machine: QemuMachine,
  state: SavedState,
  memoryPath: string,
  statePath: string,
): Promise<void> {
  const socketPath = `${process.env['TMPDIR'] ?? ''}/.snapshot-${process.pid}.sock`;
  const server = createServer({ allowHalfOpen: false });
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(socketPath, () => resolve()));
  try {
    await using memory = await open(memoryPath, 'w');
    const written = once(server, 'connection').then(async ([socket]: Socket[]) => {
      for await (const bytes of socket!) await memory.appendFile(bytes as Buffer);
    });
    await machine.qmp.execute('migrate-set-parameters', { 'max-bandwidth': BYTES_PER_SECOND });
    await machine.qmp.execute('migrate', { uri: `unix:${socketPath}` });
    await written;
    const { status } = await machine.qmp.execute('query-migrate');
    if (status !== 'completed') throw new Error(`QEMU's migration is ${String(status)}`);
    await memory.sync();
    writeFileSync(statePath, JSON.stringify(state));
  } finally {
    server.close();
    rmSync(socketPath, { force: true });
  }
}

/** @throws Error when it is no snapshot of the double's, or QEMU does not take it */
export async function loadMachine(
  memoryPath: string,
  statePath: string,
  settings: Settings,
): Promise<{ machine: QemuMachine; state: SavedState }> {
  const state = JSON.parse(readFileSync(statePath, 'utf8')) as SavedState;
  const fd = openSync(memoryPath, 'r');
  const machine = new QemuMachine(state.config, settings, fd);
  closeSync(fd);
  for (;;) {
    const { status } = await machine.qmp.execute('query-status');
    if (status !== 'inmigrate') break;
    await sleep(LOOK_MS);
  }
  machine.isListening = state.isListening;
  return { machine, state };
}
