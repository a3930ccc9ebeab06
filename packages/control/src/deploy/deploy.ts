import {
  CocoreError,
  fromBase64,
  type FunctionDeploy,
  type FunctionRecord,
  MAX_CODE_BYTES,
  MAX_INPUT_BYTES,
  utf8Length,
} from '@cocore/protocol';
import { checkShape } from '../admission.ts';
import type { HttpParts } from '../http/parts.ts';
import { processOf, recipeNamed } from '../runtimes/recipe.ts';
import type { NewFunctionVersion } from '../store/store.ts';

/** What a version is made from: everything but the fields that every deployment has. */
type Made = Pick<NewFunctionVersion, 'runtime' | 'source' | 'handler' | 'process' | 'code' | 'image'>;

/** Makes the function, or its next version; when it throws, nothing has changed. @throws CocoreError */
export async function deploy(parts: HttpParts, projectId: string, body: FunctionDeploy): Promise<FunctionRecord> {
  checkShape(body.memoryMiB, body.cpus);
  checkEnvironment(body.env);
  const made = await fromFile(parts, projectId, body);
  const { name, memoryMiB, cpus, timeoutMs, outputLimitBytes, env } = body;
  const isolation = body.isolation ?? parts.defaultIsolation;
  const version = { projectId, name, ...made, memoryMiB, cpus, timeoutMs, outputLimitBytes, env, isolation };
  return parts.store.createFunctionVersion(version, parts.limits);
}

async function fromFile(
  parts: HttpParts,
  projectId: string,
  { file, runtime, handler }: FunctionDeploy,
): Promise<Made> {
  const recipe = recipeNamed(runtime!);
  const content = fromBase64(file!.contentBase64);
  if (content.length > MAX_CODE_BYTES) {
    throw new CocoreError(
      'input_too_large',
      `the code has ${content.length} bytes; at most ${MAX_CODE_BYTES} are taken`,
    );
  }
  const code = await parts.imager.make(file!.name, content, async (blob) =>
    parts.store.addBlob(projectId, blob, parts.limits),
  );
  return {
    runtime: recipe.name,
    source: { kind: 'file', name: file!.name },
    handler: handler ?? null,
    process: processOf(recipe, file!.name),
    code,
    image: parts.baseImage,
  };
}

function checkEnvironment(env: Readonly<Record<string, string>>): void {
  const bytes = Object.entries(env).reduce((sum, [name, value]) => sum + name.length + 1 + utf8Length(value), 0);
  if (bytes > MAX_INPUT_BYTES) {
    throw new CocoreError(
      'input_too_large',
      `the environment has ${bytes} bytes; at most ${MAX_INPUT_BYTES} are taken`,
    );
  }
}
