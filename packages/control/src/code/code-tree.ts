import { CocoreError, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_DEPTH, MAX_ARCHIVE_ENTRIES, utf8Length } from '@cocore/protocol';
import type { Content } from './content.ts';

const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 1024;
const MAX_LINKS = 1_000;
/** How many links may lead to one another. */
const MAX_HOPS = 8;

/** Where CoCore puts files of its own beside the code. */
export const OWN_DIRECTORY = '.cocore';

export type CodeNode =
  | { readonly kind: 'directory' }
  | { readonly kind: 'file'; readonly content: Content; readonly isExecutable: boolean }
  | { readonly kind: 'link'; readonly target: string };

/** How much a directory may hold. */
export interface CodeLimits {
  readonly bytes: number;
  /** Files, directories and links together. */
  readonly entries: number;
}

/** Of what is deployed. */
export const SOURCE_LIMITS: CodeLimits = { bytes: MAX_ARCHIVE_BYTES, entries: MAX_ARCHIVE_ENTRIES };

/** What a directory of code holds, counted and judged before any of it is written. */
export class CodeTree {
  readonly #nodes = new Map<string, CodeNode>();
  /** Directories that are there because something is in them; an archive may still name them once. */
  readonly #implied = new Set<string>();
  readonly limits: CodeLimits;
  #bytes = 0;
  #links = 0;

  constructor(limits: CodeLimits = SOURCE_LIMITS) {
    this.limits = limits;
  }

  /**
   * Takes one node up.
   *
   * @param name as the archive has it; `./` before it and `/` after it are nothing
   * @throws CocoreError `code_invalid`
   */
  add(name: string, node: CodeNode): void {
    const parts = partsOf(name);
    if (parts.length === 0) {
      if (node.kind === 'directory') return;
      throw refused(name, 'takes the place of the directory itself');
    }
    if (parts[0] === OWN_DIRECTORY) throw refused(name, `has a place that is CoCore's own`);
    this.#put(name, parts, node);
  }

  /** A file that CoCore puts beside the code. */
  addOwn(name: string, content: Content): void {
    this.#put(name, [OWN_DIRECTORY, name], { kind: 'file', content, isExecutable: true });
  }

  /**
   * Puts what another tree holds below a directory of this one.
   *
   * @param into empty for the directory itself; it may be CoCore's own
   * @throws CocoreError `code_invalid` where something is there
   */
  lay(layer: CodeTree, into: string): void {
    const below = partsOf(into);
    for (const [path, node] of layer.nodes) this.#put(path, [...below, ...path.split('/')], node);
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
    if (node?.kind === 'file' && node.content.bytes > 0) return;
    throw new CocoreError(
      'code_invalid',
      node === undefined
        ? `the directory has no file ${shown(path)}`
        : `${shown(path)} is ${node.kind === 'file' ? 'an empty file' : 'not a file'}`,
    );
  }

  #put(name: string, parts: readonly string[], node: CodeNode): void {
    if (parts.length > MAX_ARCHIVE_DEPTH) throw refused(name, `lies deeper than ${MAX_ARCHIVE_DEPTH} directories`);
    const path = parts.join('/');
    if (parts.some((part) => utf8Length(part) > MAX_NAME_BYTES) || utf8Length(path) > MAX_PATH_BYTES) {
      throw refused(name, `has a name longer than ${MAX_NAME_BYTES} bytes, or a path longer than ${MAX_PATH_BYTES}`);
    }
    for (let depth = 1; depth < parts.length; depth += 1) this.#imply(parts.slice(0, depth).join('/'), name);
    if (this.#nodes.has(path) && !(node.kind === 'directory' && this.#implied.delete(path))) {
      throw refused(name, 'is there twice');
    }
    this.#set(path, node);
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
    const { bytes, entries } = this.limits;
    if (this.#nodes.size > entries) {
      throw new CocoreError('code_invalid', `the directory has more than ${entries} files and directories`);
    }
    if (node.kind === 'file') this.#bytes += node.content.bytes;
    if (this.#bytes > bytes) throw new CocoreError('code_invalid', `the directory has more than ${bytes} bytes`);
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

/** @throws CocoreError `code_invalid` for a path that leads out of the directory */
function partsOf(name: string): string[] {
  if (name.startsWith('/')) throw refused(name, 'has an absolute path');
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw refused(name, 'leads out of the directory');
  return parts;
}

const refused = (name: string, why: string) => new CocoreError('code_invalid', `${shown(name)} ${why}`);

/** A name of somebody else's, short and without control characters. */
export const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);
