import { chmod, chown, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { SandboxNetwork, SandboxShape } from '../driver.ts';
import { machineMemoryMiB } from '../microvm/shape.ts';
import type { ApiClient } from './api-client.ts';
import type { Furniture } from './jail.ts';
import { JAIL_PATHS } from './jailer-command.ts';
import type { FirecrackerLauncher } from './launcher.ts';

/** Larger than any drive of a function, so that a guest reads whatever file is put in the placeholder's place to its end. */
const PLACEHOLDER_BYTES = 2 ** 40;

/** The files of a snapshot: the guest's memory, byte for byte, and everything else of the machine. */
export const SNAPSHOT_FILES = ['memory', 'state'] as const;
/** What the monitor writes of the machine beside its memory is some tens of KiB. */
const STATE_BYTES = 2 ** 20;

/** An empty, sparse file to stand for a drive. `uid` may write it; without one nobody may. */
export async function makePlaceholder(path: string, uid: number | null): Promise<void> {
  await using file = await open(path, 'wx', uid === null ? 0o444 : 0o600);
  await file.truncate(PLACEHOLDER_BYTES);
  if (uid !== null) await file.chown(uid, uid);
}

export interface TemplateOptions {
  readonly launcher: FirecrackerLauncher;
  /** Names the machine on this host. */
  readonly name: string;
  readonly shape: SandboxShape;
  /** Null: the machine has no network card. */
  readonly network: SandboxNetwork | null;
  /** Where the snapshot is written. */
  readonly directory: string;
  readonly boot: (api: ApiClient) => Promise<void>;
  /** The machine's kernel and initial file system, and read-only placeholders for its drives. */
  readonly binds: Furniture['binds'];
  /** For the writing of the snapshot. */
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

/**
 * Boots a machine of the shape with placeholders for drives, until its agent listens, and writes it down. Nothing was said to the
 * agent, and nothing of a function was ever in the machine.
 *
 * @throws Error when the machine does not become ready, or is not written in time; files may be half-written then
 */
export async function makeTemplate(options: TemplateOptions): Promise<void> {
  const { launcher, name, shape, network, directory, boot, binds, deadlineMs, signal } = options;
  const files = SNAPSHOT_FILES.map((file) => join(directory, file));
  const furnish = async (own: string, uid: number): Promise<Furniture> => {
    const scratch = join(own, 'scratch');
    await makePlaceholder(scratch, uid);
    for (const path of files) {
      await using file = await open(path, 'wx', 0o600);
      await file.chown(uid, uid);
    }
    const written = SNAPSHOT_FILES.map((file, index) => [files[index]!, JAIL_PATHS[file]] as const);
    const fileBytes = machineMemoryMiB(shape.memoryMiB) * 2 ** 20 + STATE_BYTES;
    return { binds, writable: [[scratch, JAIL_PATHS.scratch], ...written], fileBytes };
  };
  const machine = await launcher.launch({ name, shape, network, furnish, configure: boot }, signal);
  await using sandbox = machine.sandbox;
  const onAbort = () => void sandbox.destroy();
  signal.addEventListener('abort', onAbort);
  try {
    await machine.untilAgentListens();
    await machine.ask(async (api) => {
      await api.patchVm('Paused');
      await api.createSnapshot({
        snapshot_path: JAIL_PATHS.state,
        mem_file_path: JAIL_PATHS.memory,
        snapshot_type: 'Full',
      });
    }, deadlineMs);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
  await sandbox.destroy();
  for (const path of files) await seal(path);
}

/** On disk, and nobody's to write: every clone of another user maps these bytes. */
async function seal(path: string): Promise<void> {
  await chown(path, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
  await chmod(path, 0o444);
  await using file = await open(path);
  if ((await file.stat()).size === 0) throw new Error(`Firecracker wrote no ${path}`);
  await file.sync();
}
