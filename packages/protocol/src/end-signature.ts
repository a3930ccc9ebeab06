import { GATEWAY_SUBPROTOCOL } from './gateway.ts';

/**
 * The signature of an end, in one of two forms. Alone: Ed25519 over `endStatement`, 86 characters of base64url. Shared: ends that are told together are
 * the leaves of one Merkle tree, of which the root is signed; each carries that signature and what leads from it to the root, so that it proves itself
 * without the others:
 *
 *     SIGNATURE.INDEX.SIZE.PATH
 *
 * The tree is that of RFC 6962, 2.1, with its bytes 0 and 1 before leaves and nodes, but hashes are text wherever they are hashed: SHA-256 as 43 characters
 * of base64url. (Bytes cost three times as much to hash in JavaScript.) The path is the hashes beside the way from the leaf up.
 */

/** SHA-256 of the text's UTF-8, in base64url. */
export type HashText = (text: string) => string;

const HASH_LENGTH = 43;
/** No leaf can be taken for a node. */
const LEAF = '\u0000';
const NODE = '\u0001';

/** What was signed for an end, and the signature over it. */
export interface Signed {
  readonly statement: string;
  readonly signature: string;
}

export const isSharedSignature = (signature: string): boolean => signature.includes('.');

/** Signs these ends, with one signature. @returns what each carries, in their order */
export function signEnds(
  endStatements: readonly string[],
  hash: HashText,
  sign: (statement: string) => string,
): string[] {
  const size = endStatements.length;
  if (size === 1) return endStatements.map(sign);
  const leaves = endStatements.map((statement) => hash(LEAF + statement));
  const { root, paths } = treeOf(leaves, hash);
  const signature = sign(rootStatement(root, size));
  return paths.map((path, index) => `${signature}.${index}.${size}.${path}`);
}

/**
 * What must be signed by the worker's key for `signature` to be that of an end: of all ends of one tree the same. Null where no tree is like this.
 *
 * @param signature of a form that the schema takes
 */
export function signedFor(endStatement: string, signature: string, hash: HashText): Signed | null {
  if (!isSharedSignature(signature)) return { statement: endStatement, signature };
  const [rootSignature = '', index = '', sizeText = '', path = ''] = signature.split('.');
  const size = Number(sizeText);
  if (Number(index) >= size) return null;
  const root = rootOf(hash(LEAF + endStatement), Number(index), size, path, hash);
  return root === null ? null : { statement: rootStatement(root, size), signature: rootSignature };
}

const rootStatement = (root: string, size: number): string => `${GATEWAY_SUBPROTOCOL}\nends\n${size}\n${root}`;

function treeOf(leaves: readonly string[], hash: HashText): { root: string; paths: string[] } {
  if (leaves.length === 1) return { root: leaves[0]!, paths: [''] };
  const split = splitOf(leaves.length);
  const left = treeOf(leaves.slice(0, split), hash);
  const right = treeOf(leaves.slice(split), hash);
  const paths = [...left.paths.map((path) => path + right.root), ...right.paths.map((path) => path + left.root)];
  return { root: hash(NODE + left.root + right.root), paths };
}

/** Null where the path is not as long as it is in a tree of that size. */
function rootOf(leaf: string, index: number, size: number, path: string, hash: HashText): string | null {
  if (size === 1) return path === '' ? leaf : null;
  if (path.length < HASH_LENGTH) return null;
  const sibling = path.slice(-HASH_LENGTH);
  const below = path.slice(0, -HASH_LENGTH);
  const split = splitOf(size);
  const isLeft = index < split;
  const root = isLeft
    ? rootOf(leaf, index, split, below, hash)
    : rootOf(leaf, index - split, size - split, below, hash);
  if (root === null) return null;
  return hash(isLeft ? NODE + root + sibling : NODE + sibling + root);
}

/** How many leaves are on the left: the largest power of two below `size`. */
function splitOf(size: number): number {
  let split = 1;
  while (2 * split < size) split *= 2;
  return split;
}
