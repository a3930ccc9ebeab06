import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Found {
  /** As `find` names it: `f`, `d`, `l`, `p`, `c`. */
  readonly type: string;
  /** Octal. */
  readonly mode: string;
  readonly owner: string;
  readonly links: number;
  readonly inode: string;
  readonly mtime: number;
  readonly target: string;
}

/** Every file of an erofs by its path, and the contents of those asked for. */
export async function inspect(
  image: string,
  read: readonly string[] = [],
): Promise<{ files: Map<string, Found>; contents: Map<string, string> }> {
  return mounted(image, async (mount) => {
    const format = '%P\\t%y\\t%m\\t%U:%G\\t%n\\t%i\\t%T@\\t%l\\n';
    const { stdout } = await run('find', [mount, '-printf', format], { maxBuffer: 256 * 1024 * 1024 });
    const files = new Map<string, Found>();
    for (const line of stdout.trimEnd().split('\n')) {
      const [path = '', type = '', mode = '', owner = '', links, inode = '', mtime, target = ''] = line.split('\t');
      files.set(path, { type, mode, owner, links: Number(links), inode, mtime: Number(mtime), target });
    }
    const contents = new Map<string, string>();
    for (const path of read) contents.set(path, (await run('cat', ['--', join(mount, path)])).stdout);
    return { files, contents };
  });
}

/** The SHA-256 of every regular file, as hex. */
export async function sha256Sums(image: string): Promise<Map<string, string>> {
  return mounted(image, async (mount) => {
    const all = ['.', '-type', 'f', '-exec', 'sha256sum', '-z', '{}', '+'];
    const { stdout } = await run('find', all, { cwd: mount, maxBuffer: 256 * 1024 * 1024 });
    const lines = stdout.split('\0').filter((line) => line !== '');
    return new Map(lines.map((line) => [line.slice(64 + '  ./'.length), line.slice(0, 64)]));
  });
}

async function mounted<T>(image: string, look: (mount: string) => Promise<T>): Promise<T> {
  const mount = await mkdtemp(join(tmpdir(), 'cocore-rootfs-'));
  await run('mount', ['-t', 'erofs', '-o', 'loop,ro', '--', image, mount]);
  try {
    return await look(mount);
  } finally {
    await run('umount', [mount]);
    await rm(mount, { recursive: true });
  }
}
