import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  type AttemptAssign,
  BUILD_EGRESS_BYTES,
  type DeployEvent,
  ExecutionList,
  FunctionList,
  FunctionRecord,
  MAX_ARTIFACTS_LIMIT_BYTES,
  type Outcome,
} from '@cocore/protocol';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { type RawEntry, tar } from './support/tar.ts';
import { type Temporary, temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';

const RECIPE = {
  name: 'tongue',
  extensions: ['.tg'],
  image: { builtIn: 'base' },
  program: ['/bin/run', '{entry}'],
  env: { LANG: 'C' },
  build: {
    when: [{ file: 'needs.txt' }, { file: 'needs.json', field: 'needed' }],
    unless: ['made'],
    inputs: ['needs*', 'vendor'],
    command: ['/bin/build', '{code}'],
    into: '.cocore/made',
    network: { allow: ['tongue.example:443'], unless: ['vendor'] },
  },
};

const CODE: readonly RawEntry[] = [
  { name: 'main.tg', content: 'main' },
  { name: 'needs.txt', content: 'one\n' },
  { name: 'vendor/one', content: 'one' },
];

const LAYER = tar([
  { name: './', flag: '5' },
  { name: './one/', flag: '5' },
  { name: './one/tool', content: 'tool', mode: 0o755 },
  { name: './bin', flag: '2', link: 'one/tool' },
]);

/** What a build leaves in `$COCORE_OUT`. */
const leaving = (layer: Uint8Array): Buffer => tar([{ name: 'layer.tar', content: layer }]);

describe('building code when it is deployed', () => {
  let recipes: Temporary;
  let server: TestServer;
  let worker: ScriptedWorker;
  before(async () => {
    recipes = temporaryDirectory();
    mkdirSync(join(recipes.path, 'recipes'));
    writeFileSync(join(recipes.path, 'recipes', 'tongue.json'), JSON.stringify(RECIPE));
    server = await TestServer.start({ recipesDirectory: join(recipes.path, 'recipes') });
    worker = await ScriptedWorker.connect(server);
  });
  after(async () => {
    await worker[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    recipes[Symbol.dispose]();
  });

  async function deploy(name: string, entries: readonly RawEntry[], change: object = {}) {
    const body = { raw: tar(entries), type: 'application/octet-stream' };
    const blob = (await server.call<{ digest: string }>('POST', '/v1/blobs', { body })).body.digest;
    const json = { name, runtime: 'tongue', archive: { blob, entry: 'main.tg' }, ...change };
    return server.call('POST', '/v1/functions', { body: { json } });
  }

  /** Does the next build that the server asks for. */
  async function build(artifacts: Uint8Array | null, outcome: Outcome = { kind: 'exited', code: 0 }, by = worker) {
    const assigned = await by.next('AttemptAssign');
    by.accept(assigned);
    by.started(assigned);
    if (artifacts !== null) by.output(assigned.channel, 'artifacts', 0, artifacts);
    by.end(assigned, outcome, artifacts === null ? {} : { artifacts });
    return assigned;
  }

  async function deployed(name: string, entries: readonly RawEntry[], change: object = {}): Promise<FunctionRecord> {
    const reply = await deploy(name, entries, change);
    assert.equal(reply.status, 201, JSON.stringify(reply.body));
    return FunctionRecord.parse(reply.body);
  }

  const codeOf = async (name: string): Promise<AttemptAssign> => {
    await server.run(name);
    const assigned = await worker.next('AttemptAssign');
    worker.accept(assigned);
    worker.end(assigned);
    return assigned;
  };

  test('what it made, it is laid beside the code; the same again is not built again', async () => {
    const [first, { task }] = await Promise.all([deployed('laid', CODE), build(leaving(LAYER))]);
    assert.deepEqual(task.argv, ['/bin/build', '/function']);
    assert.equal(task.env['LANG'], 'C');
    assert.equal(task.env['COCORE_FUNCTION_NAME'], 'laid:build');
    assert.equal(task.memoryMiB, 512);
    assert.equal(task.artifactsLimitBytes, MAX_ARTIFACTS_LIMIT_BYTES);
    assert.notEqual(task.code.digest, first.codeDigest, 'a build is shown its inputs, and not all of the code');

    const code = CODE.map((entry) => (entry.name === 'main.tg' ? { ...entry, content: 'changed' } : entry));
    const second = await deployed('laid', code);
    assert.equal(second.version, 2);
    assert.notEqual(second.codeDigest, first.codeDigest);
    assert.equal((await codeOf('laid')).task.code.digest, second.codeDigest);
    const made = [...CODE, { name: 'made/one', content: 'brought' }];
    assert.notEqual((await deployed('brought', made)).codeDigest, first.codeDigest, 'who brings it has it');
  });

  test('inputs that differ, they are built anew', async () => {
    const change = (name: string, content: string) =>
      CODE.map((entry) => (entry.name === name ? { ...entry, content } : entry));
    for (const code of [change('needs.txt', 'two\n'), change('vendor/one', 'two')]) {
      const [, { task }] = await Promise.all([deployed('anew', code), build(leaving(LAYER))]);
      assert.deepEqual(task.argv, ['/bin/build', '/function']);
    }
  });

  test('its registries, it may reach them where a worker gives a network and nothing is brought along', async () => {
    const bare = CODE.filter(({ name }) => !name.startsWith('vendor'));
    const needing = (needs: string) => bare.map((one) => (one.name === 'needs.txt' ? { ...one, content: needs } : one));
    const [, without] = await Promise.all([deployed('reaching', needing('a')), build(leaving(LAYER))]);
    assert.deepEqual(without.task.network, { mode: 'none' });
    // The tightest, so that it gets all.
    await using open = await ScriptedWorker.connect(server, { capabilities: { egress: true, memoryMiB: 2048 } });
    const success = { kind: 'exited', code: 0 } as const;
    const [, withOne] = await Promise.all([deployed('reaching', needing('b')), build(leaving(LAYER), success, open)]);
    assert.deepEqual(withOne.task.network, {
      ...{ mode: 'egress', allow: ['tongue.example:443'] },
      maxBytes: BUILD_EGRESS_BYTES,
    });
    const vendored = [...needing('c'), { name: 'vendor/one', content: 'c' }];
    const [, brought] = await Promise.all([deployed('reaching', vendored), build(leaving(LAYER), success, open)]);
    assert.deepEqual(brought.task.network, { mode: 'none' });
  });

  test('a field of a manifest, it is built where there is something in it', async () => {
    const manifest = (content: string): readonly RawEntry[] => [
      { name: 'main.tg', content: 'main' },
      { name: 'needs.json', content },
    ];
    await deployed('field', manifest('{"needed":{}}'));
    await deployed('field', manifest('{"other":{"a":1}}'));
    await Promise.all([deployed('field', manifest('{"needed":{"a":1}}')), build(leaving(LAYER))]);
    await Promise.all([deployed('field', manifest('no JSON')), build(leaving(LAYER))]);
  });

  const link = (target: string): Buffer => tar([{ name: 'a', flag: '2', link: target }]);
  const failures: [string, Uint8Array | null, Outcome, RegExp][] = [
    ['that exits with a code', null, { kind: 'exited', code: 3 }, /the build exited with 3; it is ex_/],
    ['that a signal ends', null, { kind: 'signaled', signal: 9 }, /the build ended as failure/],
    ['that is too slow', null, { kind: 'timed_out', clock: 'run' }, /the build ended as timeout/],
    ['that leaves nothing', null, { kind: 'exited', code: 0 }, /left no \$COCORE_OUT\/layer\.tar/],
    ['that leaves something else', tar([{ name: 'x', content: 'x' }]), { kind: 'exited', code: 0 }, /left no/],
    ['that leaves no archive', leaving(Buffer.from('x'.repeat(2048))), { kind: 'exited', code: 0 }, /cannot be taken/],
    ['whose archive leads out', leaving(link('/etc')), { kind: 'exited', code: 0 }, /cannot be taken/],
  ];
  for (const [what, artifacts, outcome, detail] of failures) {
    test(`a build ${what}, the deployment fails and the version before serves`, async () => {
      await deployed('serves', CODE);
      const before = await codeOf('serves');
      const code = [...CODE, { name: 'needs-more.txt', content: what }];
      const [{ status, body }] = await Promise.all([deploy('serves', code), build(artifacts, outcome)]);
      assert.equal(body.code, 'build_failed', body.detail);
      assert.equal(status, 422);
      assert.match(body.detail, detail);
      assert.equal((await codeOf('serves')).task.code.digest, before.task.code.digest);
      // It is not kept as if it had been made.
      await Promise.all([deployed('serves', code), build(leaving(LAYER))]);
      await deployed('serves', CODE);
    });
  }

  test('a build, it is an execution of no function that a user can name', async () => {
    const code = [...CODE, { name: 'needs-hidden.txt', content: 'x' }];
    const [, { executionId }] = await Promise.all([deployed('hidden', code), build(leaving(LAYER))]);
    const record = await server.execution(executionId);
    assert.equal(record.functionName, 'hidden:build');
    assert.equal(record.state, 'success');
    const { functions } = FunctionList.parse((await server.call('GET', '/v1/functions')).body);
    assert.ok(functions.every(({ name }) => !name.includes(':')));
    for (const name of [record.functionId, 'hidden%3Abuild']) {
      const run = await server.call('POST', `/v1/functions/${name}/executions`, { body: { json: {} } });
      assert.equal(run.body.code, 'function_not_found', name);
    }
    const { executions } = ExecutionList.parse((await server.call('GET', '/v1/executions')).body);
    assert.ok(executions.some(({ id }) => id === executionId));
  });

  /** The events of a deployment; `onEvent` may give it up. */
  async function eventsOf(entries: readonly RawEntry[], onEvent: (event: DeployEvent) => void, signal: AbortSignal) {
    const body = { raw: tar(entries), type: 'application/octet-stream' };
    const blob = (await server.call<{ digest: string }>('POST', '/v1/blobs', { body })).body.digest;
    const response = await fetch(`${server.url}/v1/functions`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${server.key}`,
        'content-type': 'application/json',
        accept: 'text/event-stream',
      },
      body: JSON.stringify({ name: 'watched', runtime: 'tongue', archive: { blob, entry: 'main.tg' } }),
      signal,
    });
    let text = '';
    for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
      text += piece;
      const events = text.split('\n\n');
      text = events.pop()!;
      for (const event of events) {
        const [, name, data] = /^event: (\w+)\ndata: (.*)$/s.exec(event) ?? [];
        if (name !== undefined) onEvent({ event: name, data: JSON.parse(data!) as unknown } as DeployEvent);
      }
    }
  }

  test('what a build prints, whoever deploys is shown it while it runs', async () => {
    const code = [...CODE, { name: 'needs-shown.txt', content: 'x' }];
    const seen: string[] = [];
    let shown!: () => void;
    const isShown = new Promise<void>((resolve) => (shown = resolve));
    const deploying = eventsOf(
      code,
      (event) => {
        if (event.event === 'output') {
          seen.push(`${event.data.stream}: ${Buffer.from(event.data.base64, 'base64').toString()}`);
          if (seen.length === 2) shown();
        } else if (event.event !== 'progress') seen.push(event.event);
      },
      new AbortController().signal,
    );
    const assigned = await worker.next('AttemptAssign');
    worker.accept(assigned);
    worker.started(assigned);
    worker.output(assigned.channel, 'stderr', 0, 'a warning\n');
    await new Promise<void>((resolve) => setImmediate(resolve));
    worker.output(assigned.channel, 'stdout', 0, 'collecting\n');
    await isShown;
    const artifacts = leaving(LAYER);
    worker.output(assigned.channel, 'artifacts', 0, artifacts);
    worker.end(assigned, { kind: 'exited', code: 0 }, { stdout: 'collecting\n', stderr: 'a warning\n', artifacts });
    await deploying;
    assert.deepEqual(seen.slice(0, 2).sort(), ['stderr: a warning\n', 'stdout: collecting\n']);
    assert.deepEqual(seen.slice(2), ['deployed']);
  });

  test('whoever deploys goes away, the build is cancelled', async () => {
    const code = [...CODE, { name: 'needs-cancelled.txt', content: 'x' }];
    const gone = new AbortController();
    const deploying = eventsOf(code, () => undefined, gone.signal);
    const assigned = await worker.next('AttemptAssign');
    worker.accept(assigned);
    worker.started(assigned);
    gone.abort();
    await assert.rejects(deploying, { name: 'AbortError' });
    await worker.next('AttemptCancel', ({ attemptId }) => attemptId === assigned.attemptId);
    worker.end(assigned, { kind: 'cancelled' });
    const record = await server.execution(assigned.executionId, '10s');
    assert.equal(record.state, 'cancelled');
  });

  test('no worker could take it, whoever deploys is told why it waits', async () => {
    const code = [...CODE, { name: 'needs-waiting.txt', content: 'x' }];
    await worker[Symbol.asyncDispose]();
    const gone = new AbortController();
    let waiting = '';
    const deploying = eventsOf(
      code,
      (event) => {
        if (event.event !== 'progress' || event.data.waiting === undefined) return;
        waiting = event.data.waiting;
        gone.abort();
      },
      gone.signal,
    );
    await assert.rejects(deploying, { name: 'AbortError' });
    assert.match(waiting, /worker/);
    worker = await ScriptedWorker.connect(server);
  });
});
