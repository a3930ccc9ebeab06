import { CocoreError, ServerRecord } from '@cocore/protocol';
import { openApiDocument } from './openapi.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

const LOOPBACK = /^(?:127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+)$/;

export function systemRoutes(parts: HttpParts, others: readonly Route[]): Route[] {
  let document: object | null = null;
  const routes: Route[] = [
    route({
      method: 'GET',
      path: '/v1/server',
      summary: 'Who answers, and for which project',
      access: 'key',
      answers: { 200: ServerRecord },
      handle: async ({ caller }) => ({
        status: 200,
        body: {
          serverId: parts.serverId,
          version: parts.version,
          projectId: caller.projectId,
          role: caller.role,
          workersOnline: parts.dispatcher.onlineCount,
        },
      }),
    }),
    route({
      method: 'GET',
      path: '/healthz',
      summary: 'Answers when the server serves',
      access: 'none',
      answers: { 200: 'json' },
      handle: async () => ({ status: 200, body: { status: 'ok' } }),
    }),
    route({
      method: 'GET',
      path: '/metrics',
      summary: 'Prometheus metrics, for this machine or an operator',
      access: 'none',
      answers: { 200: 'text' },
      handle: async ({ request, reply }) => {
        if (!LOOPBACK.test(request.ip)) {
          const caller = await parts.authenticator.authenticate(request.headers.authorization);
          if (caller.role !== 'operator') throw new CocoreError('forbidden', 'this needs a key of the role operator');
        }
        const { registry } = parts.metrics;
        void reply.header('content-type', registry.contentType);
        return { status: 200, body: await registry.metrics() };
      },
    }),
    route({
      method: 'GET',
      path: '/openapi.json',
      summary: 'This description',
      access: 'none',
      answers: { 200: 'json' },
      handle: async () => {
        document ??= openApiDocument([...others, ...routes], parts.version);
        return { status: 200, body: document };
      },
    }),
  ];
  return routes;
}
