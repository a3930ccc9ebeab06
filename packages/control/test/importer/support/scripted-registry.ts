import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { Blob, Image } from './images.ts';

/** @returns whether it has answered; else the registry answers as any does */
export type Answer = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface ScriptedRegistry extends AsyncDisposable {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  readonly port: number;
  /** Methods and paths, in order. */
  readonly requests: string[];
}

/** A registry with one image, `NAME:latest` for any name, which may lie as the test wants. */
export async function scriptedRegistry(
  { manifest, blobs }: Image,
  answer: Answer = () => false,
  tls: { cert: string; key: string } | null = null,
): Promise<ScriptedRegistry> {
  const requests: string[] = [];
  const give = (response: ServerResponse, { mediaType, digest, bytes }: Blob) =>
    response.writeHead(200, { 'content-type': mediaType, 'docker-content-digest': digest }).end(bytes);
  const listener: RequestListener = (request, response) => {
    requests.push(`${request.method} ${request.url}`);
    if (answer(request, response)) return;
    const url = request.url ?? '';
    const named = blobs.find(({ digest }) => url.endsWith(`/blobs/${digest}`));
    if (url === '/v2/') response.writeHead(200).end('{}');
    else if (/\/manifests\/(?:latest|sha256:[0-9a-f]{64})$/.test(url)) give(response, manifest);
    else if (named !== undefined) give(response, named);
    else response.writeHead(404).end('{"errors":[{"code":"NAME_UNKNOWN"}]}');
  };
  const server = tls === null ? createServer(listener) : createSecureServer(tls, listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  return {
    host: `127.0.0.1:${port}`,
    port,
    requests,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
