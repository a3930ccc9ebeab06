import { readFileSync, statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import type { CocoreClient } from '@cocore/client';
import { CocoreError, type FunctionDeployInput, type ProjectFile, type RuntimeRecord } from '@cocore/protocol';
import { SourceDirectory } from './directory.ts';
import { readProjectFile } from './project-file.ts';
import { findEntry, guessRuntime } from './runtimes.ts';

/** What the command was told of the code. */
export interface SourceOptions {
  readonly runtime?: string;
  readonly entry?: string;
  readonly handler?: string;
}

/** The part of the request that says where the code comes from, and what the directory itself says of the rest. */
export interface Source {
  readonly deploy: Pick<FunctionDeployInput, 'name' | 'file' | 'archive' | 'image' | 'runtime' | 'handler'>;
  readonly project: ProjectFile;
}

/** A file or a directory of code. @throws CocoreError */
export async function sourceAt(path: string, options: SourceOptions, client: () => CocoreClient): Promise<Source> {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return directorySource(path, options, client);
  if (options.entry !== undefined) throw new CocoreError('usage', '--entry names a file of a directory');
  return fileSource(path, options, client);
}

async function fileSource(
  path: string,
  { runtime, handler }: SourceOptions,
  client: () => CocoreClient,
): Promise<Source> {
  const content = read(path);
  const name = basename(path);
  const file = { name, contentBase64: content.toString('base64') };
  const what = runtime ?? nameOf(guessRuntime(path, content, await client().runtimes.list()), path);
  return { deploy: { name: name.replace(/\.[^.]*$/, ''), file, runtime: what, ...handlerOf(handler) }, project: {} };
}

async function directorySource(path: string, options: SourceOptions, client: () => CocoreClient): Promise<Source> {
  const project = readProjectFile(path);
  const directory = SourceDirectory.read(path);
  const asked = options.runtime ?? project.runtime;
  const known = options.entry ?? project.entry;
  const runtimes = known === undefined || asked === undefined ? await client().runtimes.list() : [];
  const entry = known ?? findEntry(directory, asked, runtimes);
  if (!directory.has(entry)) throw new CocoreError('code_invalid', `${path} has no file ${entry}, or it is left out`);
  const runtime = asked ?? nameOf(guessRuntime(entry, directory.content(entry), runtimes), entry);
  const { digest } = await client().blobs.upload(await directory.pack());
  return {
    deploy: {
      name: project.name ?? basename(resolve(path)),
      archive: { blob: digest, entry },
      runtime,
      ...handlerOf(options.handler ?? project.handler),
    },
    project,
  };
}

const handlerOf = (handler: string | undefined) => (handler === undefined ? {} : { handler });

function nameOf(runtime: RuntimeRecord | undefined, path: string): string {
  if (runtime !== undefined) return runtime.name;
  throw new CocoreError('runtime_unknown', `what runs ${path} cannot be told from it`);
}

function read(path: string): Buffer {
  try {
    // A device may have no end.
    if (statSync(path).isCharacterDevice()) throw new CocoreError('code_invalid', `${path} is not a regular file`);
    return readFileSync(path);
  } catch (cause) {
    if (cause instanceof CocoreError) throw cause;
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
}
