import { ERRORS, EVENT_FRAMES_TYPE, Problem } from '@cocore/protocol';
import { z } from 'zod';
import type { Content, Route } from './route.ts';

const ACCESS = {
  key: [{ key: [] }],
  operator: [{ key: [] }],
  worker: [{ session: [] }],
  none: [],
};

/** An OpenAPI 3.1 document of the routes, from the schemas that validate. */
export function openApiDocument(routes: readonly Route[], version: string): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const one of routes) {
    const path = (paths[one.path] ??= {});
    path[one.method.toLowerCase()] = operation(one);
  }
  return {
    openapi: '3.1.0',
    info: { title: 'CoCore control server', version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    paths,
    components: {
      schemas: { Problem: schemaOf(Problem, 'output') },
      securitySchemes: {
        key: { type: 'http', scheme: 'bearer', description: 'A key of a project' },
        session: { type: 'http', scheme: 'bearer', description: 'The blob token of a worker’s session' },
      },
    },
  };
}

function operation(one: Route): object {
  const operationId = `${one.method.toLowerCase()}${one.path.replaceAll(/[^A-Za-z0-9]+(\w)?/g, (_, next: string = '') => next.toUpperCase())}`;
  const inPath = [...one.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }));
  return {
    operationId,
    summary: one.summary,
    ...(one.access === 'operator' ? { description: 'Needs a key of the role operator.' } : {}),
    security: ACCESS[one.access],
    parameters: [...inPath, ...queryParameters(one.query)],
    ...(one.body === undefined ? {} : { requestBody: { required: true, content: content(one.body, 'input') } }),
    responses: {
      ...Object.fromEntries(
        Object.entries(one.answers).map(([status, answer]) => [
          status,
          answer === null ? { description: 'Done' } : { description: 'The answer', content: content(answer, 'output') },
        ]),
      ),
      default: {
        description: `A problem; its code is one of ${Object.keys(ERRORS).length} in a closed table`,
        content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
      },
    },
  };
}

function content(of: Exclude<Content, null>, io: 'input' | 'output'): object {
  switch (of) {
    case 'octets':
      return { 'application/octet-stream': {} };
    case 'tar':
      return { 'application/x-tar': {} };
    case 'events':
      return { 'text/event-stream': { schema: { type: 'string' } }, [EVENT_FRAMES_TYPE]: {} };
    case 'text':
      return { 'text/plain': { schema: { type: 'string' } } };
    case 'json':
      return { 'application/json': { schema: { type: 'object' } } };
    default:
      return { 'application/json': { schema: schemaOf(of, io) } };
  }
}

interface JsonSchema {
  readonly $schema?: string;
  readonly properties?: Record<string, object>;
  readonly required?: readonly string[];
}

function schemaOf(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as JsonSchema;
  return rest;
}

function queryParameters(query: z.ZodType | undefined): object[] {
  if (query === undefined) return [];
  const { properties = {}, required = [] } = schemaOf(query, 'input');
  return Object.entries(properties).map(([name, schema]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    schema,
  }));
}
