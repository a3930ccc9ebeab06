import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { chmod, open } from 'node:fs/promises';
import { join } from 'node:path';
import { deadline } from '../../host/clock.ts';
import type { SandboxNetwork, SandboxShape } from '../driver.ts';
import { JAIL_PATHS } from './command.ts';
import type { QemuLauncher } from './launcher.ts';

/** As fast as the disk takes it: QEMU's default is made for a network in use. */
const BYTES_PER_SECOND = 100 * 2 ** 30;
/** The machine's last state, after its memory: the machine stands still for this long at most. */
const DOWNTIME_MS = 10_000;

/** The one file of a snapshot. */
export const SNAPSHOT_FILE = 'machine';

export interface TemplateOptions {
  readonly launcher: QemuLauncher;
  /** Names the machine on this host. */
  readonly name: string;
  readonly shape: SandboxShape;
  /** Null: the machine has no network card. */
  readonly network: SandboxNetwork | null;
  /** Where the snapshot is written. */
  readonly directory: string;
  readonly bootDeadlineMs: number;
  readonly signal: AbortSignal;
}

/**
 * Boots a machine of the shape with placeholders for drives, until its agent has opened its port, and writes it down. Nothing was said to
 * the agent, and nothing of a function was ever in the machine.
 *
 * The machine is not stopped before: a clone would wait to be resumed. Its memory goes through a socket, because QEMU, forbidden to
 * start programs, takes no descriptor of a file to write to from its command line.
 *
 * @throws Error when the machine is not ready or not written within `bootDeadlineMs`; the file may be half-written then
 */
export async function makeTemplate(options: TemplateOptions): Promise<void> {
  const { directory, bootDeadlineMs, signal } = options;
  await using scope = new AsyncDisposableStack();
  const late = Promise.withResolvers<never>();
  late.promise.catch(() => undefined);
  scope.use(deadline(bootDeadlineMs, () => late.reject(new Error(`no snapshot within ${bootDeadlineMs} ms`))));
  const onAbort = () => late.reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort);
  scope.defer(() => signal.removeEventListener('abort', onAbort));
  const inTime = <T>(work: Promise<T>): Promise<T> => Promise.race([work, late.promise]);

  await using file = await open(join(directory, SNAPSHOT_FILE), 'wx', 0o400);
  const server = createServer({ allowHalfOpen: false });
  scope.defer(() => void server.close());
  const written = once(server, 'connection').then(async ([socket]: Socket[]) => {
    scope.defer(() => void socket!.destroy());
    for await (const bytes of socket!) await file.appendFile(bytes as Buffer);
  });
  written.catch(() => undefined);
  const { sandbox, qmp, ready } = scope.use(
    await launchBlank(options, async (directory) => {
      // A socket's address is short; the directory's path may be long.
      await using handle = await open(directory);
      await new Promise<void>((resolve) => server.listen(`/proc/self/fd/${handle.fd}/snapshot`, resolve));
      const socket = join(directory, 'snapshot');
      await chmod(socket, 0o666);
      return [socket, JAIL_PATHS.snapshot];
    }),
  );
  const gone = sandbox.exited.then(({ code, signal }) => {
    throw new Error(`the machine ended (${code ?? signal}) before its snapshot was written: ${sandbox.console()}`);
  });
  gone.catch(() => undefined);
  await inTime(Promise.race([ready, gone]));
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': BYTES_PER_SECOND, 'downtime-limit': DOWNTIME_MS });
  await qmp.execute('migrate', { uri: `unix:${JAIL_PATHS.snapshot}` });
  await inTime(Promise.race([written, gone]));
  const { status } = (await inTime(qmp.execute('query-migrate'))) as { status?: string };
  if (status !== 'completed') throw new Error(`QEMU’s snapshot is ${status}`);
  await file.sync();
}

async function launchBlank(
  { launcher, name, shape, network, signal }: TemplateOptions,
  socket: (directory: string) => Promise<[string, string]>,
) {
  const furnish = async (directory: string) => ({ binds: [], shared: [await socket(directory)] });
  const machine = await launcher.launch(
    { name, shape, drives: 'placeholders', snapshotFd: null, network, furnish },
    signal,
  );
  return { ...machine, [Symbol.asyncDispose]: () => machine.sandbox.destroy() };
}
