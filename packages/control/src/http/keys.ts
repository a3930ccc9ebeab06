import { CocoreError, KeyCreate, KeyCreated, KeyList } from '@cocore/protocol';
import { makeKey } from '../auth/secrets.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

export function keyRoutes({ store, authenticator, clock }: HttpParts): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/keys',
      summary: 'Makes a key for this project or another',
      access: 'operator',
      body: KeyCreate,
      answers: { 201: KeyCreated },
      handle: async ({ caller, body }) => {
        const projectId = body.project === undefined ? caller.projectId : await store.ensureProject(body.project);
        const { keyId, secret, secretHash } = makeKey(clock.nowMs());
        const record = await store.createKey({ projectId, role: body.role, keyId, secretHash });
        return { status: 201, body: { ...record, secret } };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/keys',
      summary: 'Lists the keys of every project, without their secrets',
      access: 'operator',
      answers: { 200: KeyList },
      handle: async () => ({ status: 200, body: { keys: await store.listKeys() } }),
    }),
    route({
      method: 'DELETE',
      path: '/v1/keys/{key}',
      summary: 'Makes a key invalid',
      access: 'operator',
      answers: { 204: null },
      handle: async ({ parameters }) => {
        const deleted = await store.deleteKey(parameters['key']!);
        authenticator.forget(parameters['key']!);
        if (deleted) return { status: 204, body: undefined };
        throw new CocoreError('key_not_found', `there is no key ${parameters['key']}`);
      },
    }),
  ];
}
