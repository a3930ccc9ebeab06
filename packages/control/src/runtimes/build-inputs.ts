import type { Recipe } from '@cocore/protocol';
import { type CodeNode, CodeTree } from '../code/code-tree.ts';

type Build = NonNullable<Recipe['build']>;

/** A manifest is read whole. */
const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;

/** Whether this code is built. */
export async function isBuilt({ when, unless }: Build, code: CodeTree): Promise<boolean> {
  if (unless.some((path) => code.nodes.has(path))) return false;
  if (when === undefined) return true;
  for (const { file, field } of when) {
    const node = code.nodes.get(file);
    if (node !== undefined && (field === undefined || (await hasField(node, field)))) return true;
  }
  return false;
}

/** What of the code a build is shown. */
export function inputsOf({ inputs }: Build, code: CodeTree): CodeTree {
  if (inputs === undefined) return code;
  const shown = new CodeTree(code.limits);
  const patterns = inputs.map(patternOf);
  for (const [path, node] of code.nodes) if (patterns.some((pattern) => pattern.test(path))) shown.add(path, node);
  return shown;
}

/** A path, or what lies below it. */
function patternOf(path: string): RegExp {
  const escaped = path.replaceAll(/[.+?^${}()|[\]\\]/g, String.raw`\$&`).replaceAll('*', '[^/]*');
  return new RegExp(`^${escaped}(?:/|$)`);
}

/** Whether a JSON document has something in a field; one that cannot be read is the build's to complain of. */
async function hasField(node: CodeNode, field: string): Promise<boolean> {
  if (node.kind !== 'file' || node.content.bytes > MAX_MANIFEST_BYTES) return true;
  const pieces: Uint8Array[] = [];
  for await (const piece of node.content.pieces(MAX_MANIFEST_BYTES)) pieces.push(piece);
  try {
    const value = (JSON.parse(Buffer.concat(pieces).toString('utf8')) as Record<string, unknown> | null)?.[field];
    return typeof value === 'object' && value !== null ? Object.keys(value).length > 0 : value !== undefined;
  } catch {
    return true;
  }
}
