import { ImportFailure } from './failure.ts';

/** A directory: its directories by name. */
type Node = Map<string, Node>;

/**
 * Counts what the layers of an image make, directories that only a path names included: each such directory once, whatever
 * the number of paths that go through it.
 */
export class TreeCount {
  readonly #root: Node = new Map();
  readonly #maxFiles: number;
  readonly #maxDepth: number;
  #files = 0;

  constructor(maxFiles: number, maxDepth: number) {
    this.#maxFiles = maxFiles;
    this.#maxDepth = maxDepth;
  }

  /** @throws ImportFailure `image_too_large`, or `image_refused` where the path is too deep */
  add(parts: readonly string[], isDirectory: boolean): void {
    if (parts.length > this.#maxDepth) {
      throw new ImportFailure('image_refused', `a file in a layer is more than ${this.#maxDepth} directories deep`);
    }
    const directories = isDirectory ? parts.length : parts.length - 1;
    let node = this.#root;
    for (let at = 0; at < directories; at += 1) {
      const part = parts[at]!;
      let next = node.get(part);
      if (next === undefined) {
        next = new Map();
        node.set(part, next);
        this.#one();
      }
      node = next;
    }
    if (!isDirectory) this.#one();
  }

  #one(): void {
    this.#files += 1;
    if (this.#files > this.#maxFiles) {
      throw new ImportFailure('image_too_large', `the image has more than ${this.#maxFiles} files`);
    }
  }
}
