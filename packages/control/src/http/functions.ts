import {
  CocoreError,
  fromBase64,
  FunctionDeploy,
  FunctionList,
  FunctionRecord,
  MAX_CODE_BYTES,
  MAX_INPUT_BYTES,
  utf8Length,
} from '@cocore/protocol';
import { checkShape } from '../admission.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

/** 4 MiB of code in base64, and the environment, escaped. */
const BODY_LIMIT_BYTES = 14 * 1024 * 1024;

export function functionRoutes(parts: HttpParts): Route[] {
  const { store } = parts;
  return [
    route({
      method: 'POST',
      path: '/v1/functions',
      summary: 'Deploys a function, or the next version of the one with this name',
      access: 'key',
      body: FunctionDeploy,
      bodyLimitBytes: BODY_LIMIT_BYTES,
      answers: { 201: FunctionRecord },
      handle: async ({ caller, body }) => ({ status: 201, body: await deploy(parts, caller.projectId, body) }),
    }),
    route({
      method: 'GET',
      path: '/v1/functions',
      summary: 'Lists the functions of the project, by name',
      access: 'key',
      answers: { 200: FunctionList },
      handle: async ({ caller }) => ({ status: 200, body: { functions: await store.listFunctions(caller.projectId) } }),
    }),
    route({
      method: 'GET',
      path: '/v1/functions/{function}',
      summary: 'One function, by id or name',
      access: 'key',
      answers: { 200: FunctionRecord },
      handle: async ({ caller, parameters }) => {
        const found = await store.readFunction(caller.projectId, parameters['function']!);
        if (found !== null) return { status: 200, body: found };
        throw new CocoreError('function_not_found', `there is no function ${parameters['function']} in this project`);
      },
    }),
  ];
}

async function deploy(parts: HttpParts, projectId: string, body: FunctionDeploy): Promise<FunctionRecord> {
  checkShape(body.memoryMiB, body.cpus);
  const content = fromBase64(body.file.contentBase64);
  if (content.length > MAX_CODE_BYTES) {
    throw new CocoreError(
      'input_too_large',
      `the code has ${content.length} bytes; at most ${MAX_CODE_BYTES} are taken`,
    );
  }
  const envBytes = Object.entries(body.env).reduce(
    (sum, [name, value]) => sum + name.length + 1 + utf8Length(value),
    0,
  );
  if (envBytes > MAX_INPUT_BYTES) {
    throw new CocoreError(
      'input_too_large',
      `the environment has ${envBytes} bytes; at most ${MAX_INPUT_BYTES} are taken`,
    );
  }
  const code = await parts.imager.make(body.file.name, content, async (blob) =>
    parts.store.addBlob(projectId, blob, parts.limits),
  );
  return parts.store.createFunctionVersion(
    {
      projectId,
      name: body.name,
      runtime: body.runtime,
      fileName: body.file.name,
      code,
      image: parts.baseImage,
      memoryMiB: body.memoryMiB,
      cpus: body.cpus,
      timeoutMs: body.timeoutMs,
      outputLimitBytes: body.outputLimitBytes,
      env: body.env,
      isolation: body.isolation ?? parts.defaultIsolation,
    },
    parts.limits,
  );
}
