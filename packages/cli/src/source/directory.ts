import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join, posix } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { CocoreError, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_ENTRIES, MAX_BLOB_BYTES, PROJECT_FILE } from '@cocore/protocol';
import ignore from 'ignore';
import { pack } from 'tar-stream';

export const IGNORE_FILE = '.cocoreignore';

/** What is no code; the ignore file may take it back with `!`. */
const LEFT_OUT = ['.git/', '.venv/', '__pycache__/', '.DS_Store', `/${IGNORE_FILE}`, `/${PROJECT_FILE}`];

interface Node {
  /** Below the directory, with `/`. */
  readonly path: string;
  readonly kind: 'directory' | 'file' | 'link';
  readonly isExecutable: boolean;
  readonly target: string;
}

/** What of a directory is deployed: everything but what its ignore file names. */
export class SourceDirectory {
  readonly path: string;
  readonly #nodes: readonly Node[];

  private constructor(path: string, nodes: readonly Node[]) {
    this.path = path;
    this.#nodes = nodes;
  }

  /** @throws CocoreError `file_unreadable`, `code_invalid` */
  static read(path: string): SourceDirectory {
    const ignored = ignore()
      .add(LEFT_OUT)
      .add(readIfThere(join(path, IGNORE_FILE)));
    const nodes: Node[] = [];
    const walk = (below: string) => {
      for (const name of namesIn(path, below)) {
        const node = nodeAt(path, below === '' ? name : `${below}/${name}`);
        if (node === null || ignored.ignores(node.kind === 'directory' ? `${node.path}/` : node.path)) continue;
        nodes.push(checked(node, path));
        if (nodes.length > MAX_ARCHIVE_ENTRIES) {
          throw tooMuch(path, `more than ${MAX_ARCHIVE_ENTRIES} files and directories`);
        }
        if (node.kind === 'directory') walk(node.path);
      }
    };
    walk('');
    return new SourceDirectory(
      path,
      nodes.sort((one, other) => (one.path < other.path ? -1 : 1)),
    );
  }

  has(file: string): boolean {
    return this.#nodes.some(({ path, kind }) => path === file && kind !== 'directory');
  }

  /** @throws CocoreError `file_unreadable` */
  content(file: string): Buffer {
    return contentOf(join(this.path, file));
  }

  /**
   * A tar archive that says nothing of who packed it, when and where.
   *
   * @throws CocoreError `file_unreadable`, `code_invalid`
   */
  async pack(): Promise<Buffer<ArrayBuffer>> {
    const archive = pack();
    const packed = buffer(archive);
    // A failure of this loop is the one that is told.
    packed.catch(() => undefined);
    let bytes = 0;
    for (const { path, kind, isExecutable, target } of this.#nodes) {
      const common = { name: path, mtime: new Date(0), uid: 0, gid: 0, mode: isExecutable ? 0o755 : 0o644 };
      if (kind === 'directory') archive.entry({ ...common, type: 'directory' });
      else if (kind === 'link') archive.entry({ ...common, type: 'symlink', linkname: target });
      else {
        const content = this.content(path);
        bytes += content.length;
        if (bytes > MAX_ARCHIVE_BYTES) throw tooMuch(this.path, `more than ${MAX_ARCHIVE_BYTES} bytes`);
        archive.entry({ ...common, type: 'file' }, content);
      }
    }
    archive.finalize();
    const whole = await packed;
    if (whole.length > MAX_BLOB_BYTES) throw tooMuch(this.path, `more than ${MAX_BLOB_BYTES} bytes as an archive`);
    return whole;
  }
}

function namesIn(root: string, below: string): string[] {
  let names: Buffer[];
  try {
    names = readdirSync(join(root, below), { encoding: 'buffer' });
  } catch (cause) {
    throw new CocoreError('file_unreadable', `the directory ${join(root, below)} cannot be read`, { cause });
  }
  return names.map((bytes) => {
    const name = bytes.toString('utf8');
    if (Buffer.from(name).equals(bytes)) return name;
    throw new CocoreError(
      'code_invalid',
      `${join(root, below)} has a file whose name is not UTF-8: ${JSON.stringify(name)}`,
    );
  });
}

/** Null where it has gone meanwhile. */
function nodeAt(root: string, path: string): (Node & { readonly isSpecial: boolean }) | null {
  const stats = lstatSync(join(root, path), { throwIfNoEntry: false });
  if (stats === undefined) return null;
  const kind = stats.isDirectory() ? 'directory' : stats.isSymbolicLink() ? 'link' : 'file';
  return {
    path,
    kind,
    isExecutable: kind !== 'file' || (stats.mode & 0o111) !== 0,
    target: kind === 'link' ? readlinkSync(join(root, path)) : '',
    isSpecial: kind === 'file' && !stats.isFile(),
  };
}

function checked({ isSpecial, ...node }: Node & { readonly isSpecial: boolean }, root: string): Node {
  const refuse = (what: string) =>
    new CocoreError('code_invalid', `${join(root, node.path)} ${what}; leave it out in ${IGNORE_FILE}`);
  if (isSpecial) throw refuse('is a socket, a pipe or a device');
  if (node.kind === 'link') {
    const end = posix.normalize(posix.join(posix.dirname(node.path), node.target));
    if (node.target.startsWith('/') || end === '..' || end.startsWith('../')) {
      throw refuse(`is a link that leads out of the directory, to ${node.target}`);
    }
  }
  return node;
}

const tooMuch = (path: string, what: string) =>
  new CocoreError('code_invalid', `${path} has ${what}; leave some out in ${IGNORE_FILE}`);

function contentOf(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
}

function readIfThere(path: string): string {
  return lstatSync(path, { throwIfNoEntry: false }) === undefined ? '' : contentOf(path).toString('utf8');
}
