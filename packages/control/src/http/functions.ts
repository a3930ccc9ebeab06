import { CocoreError, FunctionDeploy, FunctionList, FunctionRecord, RuntimeList } from '@cocore/protocol';
import { answerDeploy } from './deploy.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

/** 4 MiB of code in base64, and the environment, escaped. */
const BODY_LIMIT_BYTES = 14 * 1024 * 1024;

export function functionRoutes(parts: HttpParts): Route[] {
  const { store } = parts;
  return [
    route({
      method: 'GET',
      path: '/v1/runtimes',
      summary: 'Lists what source code can be run with',
      access: 'key',
      answers: { 200: RuntimeList },
      handle: async () => ({ status: 200, body: { runtimes: parts.recipes.list() } }),
    }),
    route({
      method: 'POST',
      path: '/v1/functions',
      summary: 'Deploys a function, or the next version of the one with this name',
      access: 'key',
      body: FunctionDeploy,
      bodyLimitBytes: BODY_LIMIT_BYTES,
      answers: { 201: FunctionRecord },
      handle: async (call) => answerDeploy(parts, call),
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
