import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ExecutionAnswer, type FunctionDeployInput, FunctionRecord, type Problem } from '@cocore/protocol';
import { pino } from 'pino';
import { type ControlServer, type ServerOptions, startServer } from '../../src/index.ts';
import { type Temporary, temporaryDirectory } from './temporary.ts';

export interface Reply<T> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: T;
}

export type Body = { readonly json: unknown } | { readonly raw: string | Uint8Array; readonly type?: string };

/** A real server on a free port, in a directory of its own. */
export class TestServer implements AsyncDisposable {
  readonly directory: Temporary;
  readonly key: string;
  readonly #options: Partial<ServerOptions>;
  #server: ControlServer;

  private constructor(directory: Temporary, server: ControlServer, options: Partial<ServerOptions>) {
    this.directory = directory;
    this.#server = server;
    this.#options = options;
    const dataDir = options.dataDir ?? join(directory.path, 'data');
    this.key = readFileSync(join(dataDir, 'operator.key'), 'utf8').trim();
  }

  static async start(options: Partial<ServerOptions> = {}): Promise<TestServer> {
    using scope = new DisposableStack();
    const directory = scope.use(temporaryDirectory());
    for (const name of ['base', 'node']) {
      writeFileSync(join(directory.path, `${name}.erofs`), `${name}: not read by the control server`);
    }
    const server = new TestServer(directory, await start(directory, options), options);
    scope.move();
    return server;
  }

  get server(): ControlServer {
    return this.#server;
  }

  get url(): string {
    return this.#server.url;
  }

  get authority(): string {
    return new URL(this.url).host;
  }

  /** Stops it and starts it again, on the same port and directory; with other options, where they are given. */
  async restart(whileDown: () => unknown = () => undefined, options: Partial<ServerOptions> = {}): Promise<void> {
    const port = Number(new URL(this.url).port);
    await this.#server[Symbol.asyncDispose]();
    await whileDown();
    this.#server = await start(this.directory, { ...this.#options, ...options, port });
  }

  async call<T = Problem>(
    method: string,
    path: string,
    options: { key?: string | null; body?: Body; headers?: Record<string, string> } = {},
  ): Promise<Reply<T>> {
    const { key = this.key, body } = options;
    const headers = new Headers(options.headers);
    if (key !== null) headers.set('authorization', `Bearer ${key}`);
    if (body !== undefined && 'json' in body) headers.set('content-type', 'application/json');
    if (body !== undefined && 'raw' in body && body.type !== undefined) headers.set('content-type', body.type);
    const response = await fetch(this.url + path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: 'json' in body ? JSON.stringify(body.json) : Buffer.from(body.raw) }),
    });
    const text = await response.text();
    const isJson = /json/.test(response.headers.get('content-type') ?? '');
    return { status: response.status, headers: response.headers, body: (isJson ? JSON.parse(text) : text) as T };
  }

  async deploy(name: string, options: Partial<FunctionDeployInput> = {}, key?: string): Promise<FunctionRecord> {
    const file = { name: `${name}.sh`, contentBase64: Buffer.from('echo').toString('base64') };
    const json = { name, runtime: 'bash', file, ...options };
    const reply = await this.call('POST', '/v1/functions', { body: { json }, ...(key === undefined ? {} : { key }) });
    return FunctionRecord.parse(reply.body);
  }

  async run(name: string, json: object = {}, wait?: string): Promise<ExecutionAnswer> {
    const query = wait === undefined ? '' : `?wait=${wait}`;
    const reply = await this.call<ExecutionAnswer>('POST', `/v1/functions/${name}/executions${query}`, {
      body: { json },
    });
    if (reply.status >= 300) throw new Error(JSON.stringify(reply.body));
    return reply.body;
  }

  async execution(id: string, wait?: string): Promise<ExecutionAnswer> {
    const query = wait === undefined ? '' : `?wait=${wait}`;
    return (await this.call<ExecutionAnswer>('GET', `/v1/executions/${id}${query}`)).body;
  }

  /** A key of another project. */
  async otherProjectKey(): Promise<string> {
    const reply = await this.call<{ secret: string }>('POST', '/v1/keys', { body: { json: { project: 'other' } } });
    return reply.body.secret;
  }

  async joinToken(): Promise<string> {
    return (await this.call<{ token: string }>('POST', '/v1/join-tokens', { body: { json: {} } })).body.token;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    this.directory[Symbol.dispose]();
  }
}

function start(directory: Temporary, options: Partial<ServerOptions>): Promise<ControlServer> {
  return startServer({
    dataDir: join(directory.path, 'data'),
    host: '127.0.0.1',
    port: 0,
    allowHosts: [],
    tls: { kind: 'none' },
    builtInImagePaths: { base: join(directory.path, 'base.erofs'), node: join(directory.path, 'node.erofs') },
    // What scripted workers give unless they say otherwise.
    defaultIsolation: 'container',
    log: pino({ level: process.env['COCORE_LOG_LEVEL'] ?? 'silent' }),
    ...options,
  });
}
