import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { FunctionRecord, Problem } from '@cocore/protocol';
import { TestServer } from './support/test-server.ts';

const FILE = { name: 'a.sh', contentBase64: Buffer.from('echo hello').toString('base64') };

/** The events of one deployment. */
async function deploy(server: TestServer, json: object): Promise<{ event: string; data: unknown }[]> {
  const headers = { accept: 'text/event-stream' };
  const { status, body } = await server.call<string>('POST', '/v1/functions', { headers, body: { json } });
  assert.equal(status, 200);
  return body
    .split('\n\n')
    .filter((text) => text !== '')
    .map((text) => {
      const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(text) ?? [];
      return { event: event!, data: JSON.parse(data!) as unknown };
    });
}

describe('a deployment that is followed', () => {
  test('it comes to its end, the last event is the record', async () => {
    await using server = await TestServer.start();
    const events = await deploy(server, { name: 'fine', runtime: 'bash', file: FILE });
    const { event, data } = events.at(-1)!;
    assert.equal(event, 'deployed');
    const record = FunctionRecord.parse(data);
    assert.deepEqual([record.name, record.version, record.source], ['fine', 1, { kind: 'file', name: 'a.sh' }]);
  });

  test('it fails, the last event is the problem and the version before stays', async () => {
    await using server = await TestServer.start();
    await server.deploy('fine');
    const events = await deploy(server, { name: 'fine', runtime: 'cobol', file: FILE });
    assert.deepEqual(
      events.map(({ event }) => event),
      ['failed'],
    );
    assert.equal(Problem.parse(events[0]!.data).code, 'runtime_unknown');
    const { body } = await server.call<FunctionRecord>('GET', '/v1/functions/fine');
    assert.equal(body.version, 1);
  });

  test('a body that is no deployment, it is a problem and no event', async () => {
    await using server = await TestServer.start();
    const headers = { accept: 'text/event-stream' };
    for (const json of [
      { name: 'fine', runtime: 'bash' },
      { name: 'fine', runtime: 'bash', file: FILE, image: { reference: 'a' } },
      { name: 'fine', runtime: 'bash', image: { reference: 'a' } },
      { name: 'fine', handler: 'main', image: { reference: 'a' } },
      { name: 'fine', file: FILE },
    ]) {
      const { status, body } = await server.call('POST', '/v1/functions', { headers, body: { json } });
      assert.deepEqual([status, body.code], [400, 'invalid_request'], JSON.stringify(json));
    }
  });
});
