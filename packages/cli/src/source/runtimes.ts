import { posix } from 'node:path';
import { CocoreError, type RuntimeRecord } from '@cocore/protocol';
import { plain } from '../print.ts';
import type { SourceDirectory } from './directory.ts';

/** What runs a file, by its extension, else by its first line. */
export function guessRuntime(
  path: string,
  content: Buffer,
  runtimes: readonly RuntimeRecord[],
): RuntimeRecord | undefined {
  const extension = posix.extname(path);
  const byExtension = runtimes.find(({ extensions }) => extensions.includes(extension));
  if (byExtension !== undefined) return byExtension;
  const [firstLine] = content.subarray(0, 200).toString('latin1').split('\n');
  const program = /^#!\s*(?:\S*\/env\s+(?:-S\s+)?)?(?:\S*\/)?([\w.+-]+)/.exec(firstLine!)?.[1];
  if (program === undefined) return undefined;
  const name = program.replace(/[\d.]+$/, '');
  return runtimes.find(({ interpreters }) => interpreters.includes(program) || interpreters.includes(name));
}

/**
 * The file that a directory is run by: what a manifest of its language names, else the one that has a name for it.
 *
 * @param runtime the one that it has to be of; undefined for any
 * @throws CocoreError `code_invalid` when there are none or several
 */
export function findEntry(
  directory: SourceDirectory,
  runtime: string | undefined,
  runtimes: readonly RuntimeRecord[],
): string {
  const candidates = new Set(
    runtimes
      .filter(({ name }) => runtime === undefined || name === runtime)
      .flatMap((one) => entriesOf(directory, one)),
  );
  const [only, ...others] = candidates;
  if (only !== undefined && others.length === 0) return only;
  const what =
    only === undefined
      ? `${directory.path} has no file that is run by its name, such as main.py or index.js`
      : `${directory.path} has several files that could be run: ${[only, ...others].map(plain).join(', ')}`;
  throw new CocoreError('code_invalid', `${what}; name one with --entry, or as "entry" in cocore.json`);
}

function entriesOf(directory: SourceDirectory, { entries, manifest }: RuntimeRecord): string[] {
  if (manifest !== null && directory.has(manifest.file)) {
    const named = fieldOf(directory.content(manifest.file), manifest.field);
    if (named !== undefined) return [posix.normalize(named)];
  }
  return entries.filter((entry) => directory.has(entry));
}

/** Undefined where the document does not say; whether it is right is its language's business. */
function fieldOf(content: Buffer, field: string): string | undefined {
  try {
    const value = (JSON.parse(content.toString('utf8')) as Record<string, unknown> | null)?.[field];
    return typeof value === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}
