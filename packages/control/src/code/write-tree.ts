import { chmod, mkdir, open, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { CodeTree } from './code-tree.ts';

/** Files that are written at a time. */
const WRITERS = 8;
const PIECE_BYTES = 1024 * 1024;

/**
 * Writes code into an empty directory. Nothing is written through a link, because links are made last. Modes are those of code: readable by all,
 * and executable where a file was.
 */
export async function writeTree(tree: CodeTree, directory: string): Promise<void> {
  const place = (path: string) => join(directory, path);
  const all = [...tree.nodes];
  const directories = new Set(
    all.flatMap(([path, { kind }]) => [dirname(path), ...(kind === 'directory' ? [path] : [])]),
  );
  for (const path of directories) await mkdir(place(path), { recursive: true });
  for (const path of directories) await chmod(place(path), 0o755);
  const left = all.values();
  const write = async () => {
    for (const [path, node] of left) {
      if (node.kind !== 'file') continue;
      await using file = await open(place(path), 'wx');
      for await (const piece of node.content.pieces(PIECE_BYTES)) await file.writeFile(piece);
      await file.chmod(node.isExecutable ? 0o755 : 0o644);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  for (const [path, node] of all) if (node.kind === 'link') await symlink(node.target, place(path));
}
