import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { rename } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { ApiClient, type ApiClientOptions } from '../../src/sandbox/firecracker/api-client.ts';
import {
  BOOT_ARGS,
  DRIVE_RATE,
  drives,
  entropyRate,
  GUEST_CID,
  machineConfiguration,
  networkCard,
  serialDevice,
} from '../../src/sandbox/firecracker/machine.ts';
import { ApiDescription } from '../../../../tests/firecracker-double/api-description.ts';
import { doubleSkip, OFFICIAL_DESCRIPTION } from '../../../../tests/firecracker-double/place.ts';
import { workspace } from '../support/workspace.ts';

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly body: string;
}

/** A server on a Unix socket that answers as told, and keeps what it was asked. */
async function listen(
  answer: (asked: Asked, response: ServerResponse) => void,
  options: Omit<ApiClientOptions, 'socketPath'> = {},
) {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const asked: Asked[] = [];
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const one = { method: request.method ?? '', path: request.url ?? '', body: await text(request) };
    asked.push(one);
    answer(one, response);
  };
  const server = createServer((request, response) => void handle(request, response));
  const socketPath = join(path, 'api.sock');
  await new Promise<void>((resolve) => server.listen(socketPath, () => resolve()));
  scope.defer(() => new Promise((resolve) => server.close(() => resolve())));
  scope.defer(() => server.closeAllConnections());
  const api = scope.use(new ApiClient({ socketPath, ...options }));
  const owned = scope.move();
  return { api, asked, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const accept = (_: Asked, response: ServerResponse) => response.writeHead(204).end();

/** Every call of the client, with what the driver sends where it makes the call. */
async function everyCall(api: ApiClient): Promise<void> {
  await api.putMetrics({ metrics_path: '/metrics' });
  await api.putMachineConfig(machineConfiguration(2, 227));
  await api.putBootSource({ kernel_image_path: '/vm/kernel', initrd_path: '/vm/initrd', boot_args: BOOT_ARGS });
  for (const drive of drives(DRIVE_RATE)) await api.putDrive(drive);
  await api.patchDrive({ drive_id: 'code', path_on_host: '/vm/code' });
  await api.putNetworkInterface(networkCard);
  await api.putEntropy({ rate_limiter: entropyRate });
  await api.putSerial(serialDevice);
  await api.putVsock({ guest_cid: GUEST_CID, uds_path: '/vsock.sock' });
  for (const action of ['InstanceStart', 'FlushMetrics', 'SendCtrlAltDel'] as const) await api.act(action);
  for (const state of ['Paused', 'Resumed'] as const) await api.patchVm(state);
  await api.createSnapshot({ snapshot_path: '/state', mem_file_path: '/memory', snapshot_type: 'Full' });
  const mem_backend = { backend_type: 'File', backend_path: '/memory' } as const;
  await api.loadSnapshot({ snapshot_path: '/state', mem_backend, resume_vm: false });
}

describe('requests to Firecracker', { skip: doubleSkip() }, () => {
  test('every request of the client, the official description takes it', async () => {
    const description = ApiDescription.read(OFFICIAL_DESCRIPTION);
    await using server = await listen(accept);
    await everyCall(server.api);
    const known = server.asked.map(({ method, path, body }) => [
      `${method} ${path}`,
      description.check(method, path, JSON.parse(body))?.faults ?? ['no such call'],
    ]);
    assert.deepEqual(
      known.filter(([, faults]) => faults?.length !== 0),
      [],
    );
    assert.equal(known.length, 18);
  });

  test('what must not be sent, the description names the fault', () => {
    const description = ApiDescription.read(OFFICIAL_DESCRIPTION);
    const faults = (method: string, path: string, body: unknown) =>
      description.check(method, path, body)?.faults.join('; ') ?? null;
    assert.match(faults('PUT', '/machine-config', { vcpu_count: 1, mem_size_mib: 1, ht: true })!, /unknown field `ht`/);
    assert.match(faults('PUT', '/machine-config', { vcpu_count: 1 })!, /missing field `mem_size_mib`/);
    assert.match(faults('PUT', '/machine-config', { vcpu_count: 33, mem_size_mib: 1 })!, /invalid value/);
    assert.match(faults('PUT', '/machine-config', { vcpu_count: '1', mem_size_mib: 1 })!, /expected an integer/);
    assert.match(faults('PUT', '/actions', { action_type: 'Start' })!, /unknown variant `Start`/);
    const rate = { bandwidth: { size: 1, refill_time: 1, burst: 1 } };
    assert.match(faults('PUT', '/entropy', { rate_limiter: rate })!, /unknown field `burst`/);
    assert.match(faults('PUT', '/network-interfaces/one', { iface_id: 'one' })!, /missing field `host_dev_name`/);
    assert.match(faults('PUT', '/vsock', undefined)!, /Empty PUT request/);
    assert.match(faults('GET', '/version', {})!, /cannot have a body/);
    assert.equal(faults('PUT', '/drive/one', {}), null);
    assert.equal(faults('DELETE', '/vsock', undefined), null);
  });
});

describe('answers of Firecracker', () => {
  test('a refusal, the error says what was asked and what was said', async () => {
    await using server = await listen((_, response) => {
      response.writeHead(400).end(JSON.stringify({ fault_message: 'Vsock config error: no' }));
    });
    const vsock = { guest_cid: 3, uds_path: '/v' };
    await assert.rejects(server.api.putVsock(vsock), /refused PUT \/vsock with 400: Vsock config error: no/);
  });

  test('an answer that is no JSON, the error still says what was asked', async () => {
    await using server = await listen((_, response) => response.writeHead(500).end('<html>'));
    await assert.rejects(server.api.act('InstanceStart'), /refused PUT \/actions with 500: it did not say why/);
  });

  test('what is asked for, it is read; an answer of another form is an error', async () => {
    await using server = await listen(({ path }, response) => {
      const info = { id: 'a', state: 'Running', vmm_version: '1.16.1', app_name: 'Firecracker' };
      response.end(JSON.stringify(path === '/' ? info : { version: 1 }));
    });
    assert.equal((await server.api.instance()).state, 'Running');
    await assert.rejects(server.api.version(), /GET \/version with what cannot be read/);
  });

  test('an answer without end, it is cut off', async () => {
    await using server = await listen((_, response) => {
      const more = (): void => void (response.destroyed || response.write('x'.repeat(4096), more));
      more();
    });
    await assert.rejects(server.api.instance(), /longer than 65536 bytes/);
  });

  test('no answer, the call ends at its deadline', async () => {
    await using server = await listen(() => undefined, { deadlineMs: 50 });
    await assert.rejects(server.api.instance(), /did not answer GET \/: not within 50 ms/);
  });

  test('a signal, it ends the call with its reason', async () => {
    const abort = new AbortController();
    await using server = await listen(() => abort.abort(new Error('the monitor ended')), { signal: abort.signal });
    await assert.rejects(server.api.act('InstanceStart'), /the monitor ended/);
  });

  test('a socket that is there before anybody listens at it, the call waits for that, at most until its deadline', async () => {
    await using space = await workspace();
    const [socketPath, listening] = [join(space.path, 'api.sock'), join(space.path, 'listening.sock')];
    const bind = 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])';
    await promisify(execFile)('/usr/bin/python3', ['-c', bind, socketPath]);
    using late = new ApiClient({ socketPath, deadlineMs: 50 });
    await assert.rejects(late.act('InstanceStart'), /did not answer PUT \/actions: not within 50 ms/);
    using api = new ApiClient({ socketPath });
    const called = api.act('InstanceStart');
    const server = createServer((_request, response) => response.writeHead(204).end());
    await new Promise<void>((resolve) => server.listen(listening, resolve));
    await rename(listening, socketPath);
    await called;
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  test('nobody at the socket, the error says so', async () => {
    using api = new ApiClient({ socketPath: '/nowhere/api.sock' });
    await assert.rejects(api.instance(), /did not answer GET \/: .*ENOENT/);
  });
});
