import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ErrorCode } from '@cocore/protocol';
import { CocoreError } from '@cocore/protocol';
import type { ImportRequest } from '../../../src/importer/image.ts';
import { ImageImporter, type ImageImporterOptions } from '../../../src/importer/image-importer.ts';

/** An importer with a folder of its own below the directory for temporary files; both go with it. */
export async function openImporter(
  options: Partial<ImageImporterOptions> = {},
): Promise<AsyncDisposable & { readonly importer: ImageImporter; readonly directory: string }> {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'cocore-importer-')));
  const importer = new ImageImporter({ ...options, directory });
  await importer.open();
  return {
    importer,
    directory,
    [Symbol.asyncDispose]: async () => {
      await importer[Symbol.asyncDispose]();
      if (options.directory === undefined) await rm(directory, { recursive: true });
    },
  };
}

export function requestOf(reference: string, rest: Partial<ImportRequest> = {}): ImportRequest {
  return {
    reference,
    platform: { os: 'linux', architecture: 'amd64' },
    auth: null,
    scope: 'project',
    allowLoopback: true,
    ...rest,
  };
}

export function failsWith(code: ErrorCode, message: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof CocoreError, String(error));
    assert.deepEqual([error.code, message.test(error.message)], [code, true], `${error.code}: ${error.message}`);
    return true;
  };
}
