import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import tls from 'node:tls';
import { makeCertificate } from '../src/auth/self-signed.ts';

test('several servers’ own certificates, who trusts them all reaches each', async () => {
  const certificates = Array.from({ length: 4 }, () => makeCertificate(['127.0.0.1'], Date.now()));
  const ca = certificates.map(({ cert }) => cert);
  for (const certificate of certificates) {
    const server = tls.createServer(certificate).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const socket = tls.connect({ port, host: '127.0.0.1', ca });
    await once(socket, 'secureConnect');
    assert.ok(socket.authorized);
    socket.destroy();
    server.close();
  }
});
