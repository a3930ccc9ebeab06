import type { Readable } from 'node:stream';
import { BlobRecord, CocoreError, MAX_BLOB_BYTES, Sha256 } from '@cocore/protocol';
import { bearerOf } from '../auth/secrets.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

export function blobRoutes(parts: HttpParts): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/blobs',
      summary: 'Uploads bytes, to be named by their digest',
      access: 'key',
      body: 'octets',
      bodyLimitBytes: MAX_BLOB_BYTES,
      answers: { 201: BlobRecord },
      handle: async ({ caller, request }) => {
        if (Number(request.headers['content-length'] ?? 0) > MAX_BLOB_BYTES) {
          throw new CocoreError('payload_too_large', `a blob may have at most ${MAX_BLOB_BYTES} bytes`);
        }
        const blob = await parts.blobs.put(request.body as Readable, MAX_BLOB_BYTES, async (received) =>
          parts.store.addBlob(caller.projectId, received, parts.limits),
        );
        return { status: 201, body: blob };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/worker/blobs/{digest}',
      summary: 'For workers: a blob that one of the session’s live assignments names',
      access: 'worker',
      answers: { 200: 'octets', 206: 'octets', 307: null },
      handle: async ({ parameters, request, reply }) => {
        const bearer = bearerOf(request.headers.authorization);
        if (bearer === null) throw new CocoreError('unauthenticated', 'the request carries no session’s token');
        const digest = parameters['digest']!;
        await parts.gateway.checkBlob(bearer, digest);
        if (!Sha256.safeParse(digest).success) throw new CocoreError('blob_not_found', `there is no blob ${digest}`);
        const direct = await parts.blobs.directUrl(digest);
        if (direct !== null) {
          void reply.header('location', direct.href);
          return { status: 307, body: null };
        }
        const { bytes, from, stream } = await parts.blobs.read(digest, firstByteOf(request.headers.range));
        void reply.header('content-type', 'application/octet-stream').header('content-length', bytes - from);
        if (from === 0) return { status: 200, body: stream };
        void reply.header('content-range', `bytes ${from}-${bytes - 1}/${bytes}`);
        return { status: 206, body: stream };
      },
    }),
  ];
}

/** Of `Range: bytes=N-`, what goes on with a download asks for; any other range may be answered as if it were not there. */
function firstByteOf(range: string | undefined): number {
  return Number(/^bytes=(\d{1,15})-$/.exec(range ?? '')?.[1] ?? 0);
}
