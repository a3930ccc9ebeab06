import { CocoreError, type FunctionDeploy, type FunctionRecord, MAX_INPUT_BYTES, utf8Length } from '@cocore/protocol';
import { checkShape } from '../admission.ts';
import type { HttpParts } from '../http/parts.ts';
import { codeOfArchive } from './from-archive.ts';
import { fromCode } from './from-code.ts';
import { codeOfFile } from './from-file.ts';
import { fromImage } from './from-image.ts';
import type { DeployListener, MadeVersion } from './job.ts';

/** Makes the function, or its next version; when it throws, nothing has changed. @throws CocoreError */
export async function deploy(
  parts: HttpParts,
  projectId: string,
  body: FunctionDeploy,
  listener: DeployListener,
): Promise<FunctionRecord> {
  checkShape(body.memoryMiB, body.cpus);
  checkEnvironment(body.env);
  const made = await makeVersion(parts, projectId, body, listener);
  const { name, memoryMiB, cpus, timeoutMs, outputLimitBytes, env, retries, maxConcurrent, network, idempotent } = body;
  const isolation = body.isolation ?? parts.defaultIsolation;
  const settings = {
    ...{ memoryMiB, cpus, timeoutMs, outputLimitBytes, env, isolation, retries, maxConcurrent, network, idempotent },
  };
  const record = await parts.store.createFunctionVersion({ projectId, name, ...made, ...settings }, parts.limits);
  parts.dispatcher.deployed(projectId, record);
  return record;
}

async function makeVersion(
  parts: HttpParts,
  projectId: string,
  body: FunctionDeploy,
  listener: DeployListener,
): Promise<MadeVersion> {
  const { file, archive, image } = body;
  if (image !== undefined) return fromImage(parts, projectId, image, listener);
  const code = archive === undefined ? codeOfFile(file!) : await codeOfArchive(parts, projectId, archive);
  return fromCode(parts, projectId, code, body, listener);
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
