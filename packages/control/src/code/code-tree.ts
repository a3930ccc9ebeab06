import { CocoreError, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_DEPTH, MAX_ARCHIVE_ENTRIES, utf8Length } from '@cocore/protocol';

const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 1024;
const MAX_LINKS = 1_000;
/** How many links may lead to one another. */
const MAX_HOPS = 8;

/** Where CoCore puts files of its own beside the code. */
export const OWN_DIRECTORY = '.cocore';

export type CodeNode =
  | { readonly kind: 'directory' }
  | { readonly kind: 'file'; readonly content: Uint8Array; readonly isExecutable: boolean }
  | { readonly kind: 'link'; readonly target: string };

/** What a directory of code holds, counted and judged before any of it is written. */
export class CodeTree {
  readonly #nodes = new Map<string, CodeNode>();
  /** Directories that are there because something is in them; an archive may still name them once. */
  readonly #implied = new Set<string>();
  #bytes = 0;
  #links = 0;

  /**
   * Takes one node up.
   *
   * @param name as the archive has it; `./` before it and `/` after it are nothing
   * @throws CocoreError `code_invalid`
   */
  add(name: string, node: CodeNode): void {
    if (name.startsWith('/')) throw refused(name, 'has an absolute path');
    const parts = name.split('/').filter((part) => part !== '' && part !== '.');
    if (parts.includes('..')) throw refused(name, 'leads out of the directory');
    if (parts.length === 0) {
      if (node.kind === 'directory') return;
      throw refused(name, 'takes the place of the directory itself');
    }
    if (parts[0] === OWN_DIRECTORY) throw refused(name, `has a place that is CoCore's own`);
    if (parts.length > MAX_ARCHIVE_DEPTH) throw refused(name, `lies deeper than ${MAX_ARCHIVE_DEPTH} directories`);
    if (parts.some((part) => utf8Length(part) > MAX_NAME_BYTES) || utf8Length(name) > MAX_PATH_BYTES) {
      throw refused(name, `has a name longer than ${MAX_NAME_BYTES} bytes, or a path longer than ${MAX_PATH_BYTES}`);
    }
    const path = parts.join('/');
    for (let depth = 1; depth < parts.length; depth += 1) this.#imply(parts.slice(0, depth).join('/'), name);
    if (this.#nodes.has(path) && !(node.kind === 'directory' && this.#implied.delete(path))) {
      throw refused(name, 'is there twice');
    }
    this.#set(path, node);
  }

  /** By path. */
  get nodes(): ReadonlyMap<string, CodeNode> {
    return this.#nodes;
  }

  /** Once all is there. @throws CocoreError `code_invalid` where a link leads out of the directory */
  checkLinks(): void {
    for (const [path, { kind }] of this.#nodes) {
      if (kind === 'link' && this.#leadsTo(path) === null)
        throw refused(path, 'is a link that leads out of the directory, or in a circle');
    }
  }

  /** @throws CocoreError `code_invalid` where the path is not a file with something in it */
  requireFile(path: string): void {
    const at = this.#leadsTo(path);
    const node = at === null ? undefined : this.#nodes.get(at);
    if (node?.kind === 'file' && node.content.length > 0) return;
    throw new CocoreError(
      'code_invalid',
      node === undefined
        ? `the directory has no file ${shown(path)}`
        : `${shown(path)} is ${node.kind === 'file' ? 'an empty file' : 'not a file'}`,
    );
  }

  #imply(path: string, name: string): void {
    const known = this.#nodes.get(path);
    if (known === undefined) {
      this.#implied.add(path);
      this.#set(path, { kind: 'directory' });
    } else if (known.kind !== 'directory') {
      throw refused(name, `lies in ${shown(path)}, which is no directory`);
    }
  }

  #set(path: string, node: CodeNode): void {
    this.#nodes.set(path, node);
    if (this.#nodes.size > MAX_ARCHIVE_ENTRIES) {
      throw new CocoreError('code_invalid', `the directory has more than ${MAX_ARCHIVE_ENTRIES} files and directories`);
    }
    if (node.kind === 'file') this.#bytes += node.content.length;
    if (this.#bytes > MAX_ARCHIVE_BYTES) {
      throw new CocoreError('code_invalid', `the directory has more than ${MAX_ARCHIVE_BYTES} bytes`);
    }
    if (node.kind !== 'link') return;
    this.#links += 1;
    if (this.#links > MAX_LINKS)
      throw new CocoreError('code_invalid', `the directory has more than ${MAX_LINKS} links`);
    if (node.target === '' || node.target.startsWith('/') || utf8Length(node.target) > MAX_PATH_BYTES) {
      throw refused(path, 'is a link to nothing, to an absolute path, or to one that is too long');
    }
  }

  /** Where a path is in the end; null outside, too deep, or after too many links. It need not be there. */
  #leadsTo(path: string): string | null {
    const rest = path.split('/');
    const at: string[] = [];
    let hops = 0;
    for (let part = rest.shift(); part !== undefined; part = rest.shift()) {
      if (part === '' || part === '.') continue;
      if (part === '..') {
        if (at.pop() === undefined) return null;
        continue;
      }
      at.push(part);
      if (at.length > MAX_ARCHIVE_DEPTH) return null;
      const node = this.#nodes.get(at.join('/'));
      if (node?.kind !== 'link') continue;
      hops += 1;
      if (hops > MAX_HOPS) return null;
      at.pop();
      rest.unshift(...node.target.split('/'));
    }
    return at.join('/');
  }
}

const refused = (name: string, why: string) => new CocoreError('code_invalid', `${shown(name)} ${why}`);

/** A name of somebody else's, short and without control characters. */
export const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);
