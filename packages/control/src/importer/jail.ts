import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process';
import { chown, readFile, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CocoreError } from '@cocore/protocol';

const run = promisify(execFile);

const SCRIPT = fileURLToPath(new URL('jail.sh', import.meta.url));
const INSIDE = fileURLToPath(new URL('inside', import.meta.url));
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';
const IDS = 65_536;
/** Above the ids that distributions, systemd and workers hand out; one range for each import that may run at the same time. */
const FIRST_ID = 0x7800_0000;
const KEPT_STDERR = 8192;

/** The host ids that stand for 0 to 65,535 in a jail. */
export interface JailIds {
  /** As root: the first of the range. */
  readonly first: number | null;
  /** `INSIDE OUTSIDE COUNT`, one or more. */
  readonly uidMap: readonly string[];
  readonly gidMap: readonly string[];
}

export type JailProcess = ChildProcessByStdio<Writable, Readable, Readable>;

/** @returns the first id and count that `/etc/subuid` gives to a user, by name or number */
export function subordinateIds(text: string, name: string, uid: number): { first: number; count: number } | null {
  for (const line of text.split('\n')) {
    const [who, first, count] = line.trim().split(':');
    if ((who === name || who === String(uid)) && Number(count) >= IDS - 1) {
      return { first: Number(first), count: Number(count) };
    }
  }
  return null;
}

/** @throws CocoreError `importer_unavailable` where an ordinary user has no ids to give */
export async function jailIds(slot: number): Promise<JailIds> {
  const uid = process.getuid!();
  if (uid === 0) {
    const first = FIRST_ID + slot * IDS;
    return { first, uidMap: [`0 ${first} ${IDS}`], gidMap: [`0 ${first} ${IDS}`] };
  }
  const name = userInfo().username;
  const map = async (file: string, own: number) => {
    const range = subordinateIds(await readFile(file, 'utf8').catch(() => ''), name, uid);
    if (range === null) {
      throw new CocoreError(
        'importer_unavailable',
        `images cannot be imported: ${file} gives the user ${name} no ${IDS} ids; an administrator can, with ` +
          `usermod --add-subuids 1000000-1065535 --add-subgids 1000000-1065535 ${name}`,
      );
    }
    return [`0 ${own} 1`, `1 ${range.first} ${IDS - 1}`];
  };
  return {
    first: null,
    uidMap: await map('/etc/subuid', uid),
    gidMap: await map('/etc/subgid', process.getgid!()),
  };
}

export interface JailOptions {
  /** The import's own directory, which the inside sees as `/work`. */
  readonly work: string;
  /** What the inside sees as `/layers`. */
  readonly layers: string;
  readonly ids: JailIds;
  readonly authorities: string | null;
  readonly maxFileBytes: number;
  readonly signal: AbortSignal;
}

/**
 * Starts the inside of an import. It dies with this process, with its signal, and with its standard input.
 *
 * @throws CocoreError `importer_unavailable` where this host does not let it be made
 */
export async function startJail(options: JailOptions): Promise<JailProcess> {
  const { ids, work } = options;
  if (ids.first !== null) await chown(work, ids.first, ids.first);
  return enter(['start'], ids, options.signal, work, {
    JAIL_IDS: ids.first === null ? '' : String(ids.first),
    JAIL_NODE: process.execPath,
    JAIL_CA: options.authorities ?? '',
    JAIL_LAYERS: options.layers,
    JAIL_FSIZE: String(options.maxFileBytes),
  });
}

/** Removes a directory that a jail has written, whoever its files belong to. The jail is gone by now. */
export async function removeTree(path: string): Promise<void> {
  if (process.getuid!() === 0) {
    await run('rm', ['-rf', '--one-file-system', '--', path]);
    return;
  }
  const child = await enter(['remove', path], await jailIds(0), new AbortController().signal, dirname(path), {});
  child.stdin.end();
  child.stdout.resume();
  await new Promise((resolve) => child.once('close', resolve));
}

async function enter(
  args: readonly string[],
  ids: JailIds,
  signal: AbortSignal,
  cwd: string,
  env: Record<string, string>,
): Promise<JailProcess> {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'sh', SCRIPT, ...args], {
    cwd,
    env: { PATH, JAIL_PARENT: String(process.pid), JAIL_INSIDE: INSIDE, JAIL_IDS: '', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const end = () => void endJail(child);
  signal.addEventListener('abort', end, { once: true });
  // That it cannot be started shows as the lack of its first line.
  child.on('error', () => undefined);
  child.stdin.on('error', () => undefined);
  let stderr = '';
  child.stderr.setEncoding('latin1').on('data', (text: string) => (stderr = (stderr + text).slice(-KEPT_STDERR)));
  const asked = await firstLine(child);
  signal.removeEventListener('abort', end);
  if (asked !== 'map') {
    await endJail(child);
    signal.throwIfAborted();
    const why = stderr.trim().split('\n').at(-1) || `it said ${JSON.stringify(asked)}`;
    throw new CocoreError('importer_unavailable', `the importer's jail cannot be made on this host: ${why}`);
  }
  try {
    if (ids.first !== null) {
      // `unshare` forks once; its child is the one in the new namespaces.
      const pid = await initOf(child);
      await writeFile(`/proc/${pid}/uid_map`, ids.uidMap.join('\n'));
      await writeFile(`/proc/${pid}/gid_map`, ids.gidMap.join('\n'));
    } else {
      const flat = (map: readonly string[]) => map.flatMap((line) => line.split(' '));
      await run('newuidmap', [String(child.pid), ...flat(ids.uidMap)]);
      await run('newgidmap', [String(child.pid), ...flat(ids.gidMap)]);
    }
  } catch (cause) {
    await endJail(child);
    signal.throwIfAborted();
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT' && ids.first === null;
    const why = missing ? 'newuidmap is not installed (package uidmap)' : 'its ids cannot be mapped';
    throw new CocoreError('importer_unavailable', `images cannot be imported: ${why}`, { cause });
  }
  child.stdin.write('\n');
  return child;
}

/** The host's number of the jail's process 1; null where there is none any more. */
async function initOf(child: JailProcess): Promise<number | null> {
  const children = await readFile(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').catch(() => '');
  return Number(children.trim().split(' ')[0]) || null;
}

/** Kills all of a jail, and waits until the last process is gone. */
export async function endJail(child: JailProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  // The kernel ends process 1 after all others, and `unshare` ends after process 1.
  const init = await initOf(child);
  try {
    process.kill(init ?? child.pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
  await exited;
}

/** The first line, without reading more of the stream than it. */
function firstLine(child: JailProcess): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const done = () => {
      child.stdout.off('readable', read);
      child.off('close', done);
      child.off('error', done);
      resolve(text.split('\n')[0]!);
    };
    const read = () => {
      // The jail waits for an answer after this line.
      const chunk = child.stdout.read() as Buffer | null;
      if (chunk !== null) text += chunk.toString('latin1');
      if (text.includes('\n') || text.length > 80) done();
    };
    child.stdout.on('readable', read);
    child.once('close', done);
    child.once('error', done);
  });
}
