import { once } from 'node:events';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Settings } from './place.ts';
import { type MachineCard, type MachineConfig, QemuMachine } from './qemu-machine.ts';
import { tryTap } from './tap.ts';

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

/** Another tap than the one that a card had when the machine was written down. */
export interface NetworkOverride {
  readonly iface_id: string;
  readonly host_dev_name: string;
}

function overridden(cards: readonly MachineCard[], overrides: readonly NetworkOverride[]): readonly MachineCard[] {
  if (overrides.some(({ iface_id: id }) => !cards.some((card) => card.id === id))) {
    throw new Error('Failed to get snapshot state from file: Unknown Network Device.');
  }
  const taps = new Map(overrides.map(({ iface_id: id, host_dev_name: tap }) => [id, tap]));
  return cards.map((card) => ({ ...card, tap: taps.get(card.id) ?? card.tap }));
}

function notRestored(error: unknown): never {
  const device = `Failed to create a network device: Open tap device failed: ${(error as Error).message}`;
  throw new Error(
    `Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: Net: ${device}`,
  );
}

/** @throws Error when it is no snapshot of the double's, or QEMU does not take it */
export async function loadMachine(
  memoryPath: string,
  statePath: string,
  settings: Settings,
  overrides: readonly NetworkOverride[],
): Promise<{ machine: QemuMachine; state: SavedState }> {
  const saved = JSON.parse(readFileSync(statePath, 'utf8')) as SavedState;
  const cards = overridden(saved.config.cards, overrides);
  for (const { tap } of cards) await tryTap(tap).catch(notRestored);
  const state: SavedState = { ...saved, config: { ...saved.config, cards } };
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
