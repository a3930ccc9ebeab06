import { platformTransport } from '#transport';
import {
  type BatchEntryInput,
  BatchRecord,
  BlobRecord,
  CancelAnswer,
  CancelManyAnswer,
  type CancelManyInput,
  CocoreError,
  ExecutionAnswer,
  type ExecutionCreateInput,
  ExecutionList,
  type FunctionDeployInput,
  FunctionList,
  FunctionRecord,
  JoinTokenRecord,
  KeyCreated,
  KeyList,
  type KeyRole,
  RuntimeList,
  ServerRecord,
  type StreamName,
  WorkerList,
  WorkerRecord,
} from '@cocore/protocol';
import { deploy, type DeployOptions } from './deploy.ts';
import { type ExecutionEvent, follow } from './follow.ts';
import { type Fetch, fetchTransport } from './fetch-transport.ts';
import { Http, type Query } from './http.ts';
import { waitForBatch } from './wait.ts';

export interface ClientOptions {
  /** Where the control server is: `http(s)://host:port`. */
  readonly url: string;
  /** The secret of a key; it decides the project. */
  readonly apiKey: string;
  /** What requests are sent with, in place of what the platform has: `node:http` in Node, `fetch` elsewhere. */
  readonly fetch?: Fetch;
}

interface Waiting {
  /** Up to how long to wait for the end, in milliseconds; the default is not at all. */
  readonly waitMs?: number;
}

const waitQuery = (options: Waiting): Query => ({
  wait: options.waitMs === undefined ? undefined : `${options.waitMs}ms`,
});
/** One part of a path. A name of dots would lead to another path, an empty one to none. */
const part = (name: string): string => {
  if (!/^\.{0,2}$/.test(name)) return encodeURIComponent(name);
  throw new CocoreError('invalid_request', `"${name}" is neither a name nor an id`);
};

/** Every method throws `CocoreError`. Functions are named by their name or id. */
export class CocoreClient {
  readonly #http: Http;

  constructor(options: ClientOptions) {
    const { url, apiKey, fetch } = options;
    const transport = fetch === undefined ? platformTransport(url) : fetchTransport(url, fetch);
    this.#http = new Http({ url, apiKey, transport });
  }

  readonly runtimes = {
    /** What source code can be run with; where two fit, the first does. */
    list: async () => (await this.#http.json('GET', '/v1/runtimes', RuntimeList)).runtimes,
  };

  readonly functions = {
    /** Makes the function, or the next version of the one with this name. */
    deploy: (input: FunctionDeployInput, options: DeployOptions = {}) => deploy(this.#http, input, options),
    list: async () => (await this.#http.json('GET', '/v1/functions', FunctionList)).functions,
    get: async (fn: string) => this.#http.json('GET', `/v1/functions/${part(fn)}`, FunctionRecord),
  };

  readonly executions = {
    /** Asks for one execution. Safe against a lost answer: it always carries an idempotency key. */
    create: async (fn: string, input: ExecutionCreateInput, options: Waiting = {}) => {
      const body = { ...input, idempotencyKey: input.idempotencyKey ?? newKey() };
      const path = `/v1/functions/${part(fn)}/executions`;
      return this.#http.retried(async () =>
        this.#http.json('POST', path, ExecutionAnswer, { body, query: waitQuery(options) }),
      );
    },
    get: async (id: string, options: Waiting = {}) =>
      this.#http.json('GET', `/v1/executions/${part(id)}`, ExecutionAnswer, { query: waitQuery(options) }),
    list: async (query: { state?: string; function?: string; batch?: string; limit?: number; cursor?: string } = {}) =>
      this.#http.json('GET', '/v1/executions', ExecutionList, { query }),
    /** Asking twice is no error: the answer says what this call changed. */
    cancel: async (id: string) =>
      this.#http.retried(async () => this.#http.json('POST', `/v1/executions/${part(id)}/cancel`, CancelAnswer)),
    /** Asks for all to be stopped that meet every criterion given, of which there must be one; `all` is the one that all meet. */
    cancelMany: async (criteria: CancelManyInput) =>
      this.#http.retried(async () =>
        this.#http.json('POST', '/v1/executions/cancel', CancelManyAnswer, { body: criteria }),
      ),
    /** What is committed of a stream, from an offset on. */
    output: async (id: string, stream: StreamName, offset = 0) => {
      const path = `/v1/executions/${part(id)}/output/${stream}`;
      return (await this.#http.request('GET', path, { query: { offset } })).stream();
    },
    outputBytes: async (id: string, stream: StreamName) =>
      new Uint8Array(await new Response(await this.executions.output(id, stream)).arrayBuffer()),
    /** What it left in `$COCORE_OUT`: a tar archive, whose entries are hostile. */
    artifacts: async (id: string) => (await this.#http.request('GET', `/v1/executions/${part(id)}/artifacts`)).stream(),
    /** Its record at once and at each change, its output as it is committed, and its end. */
    follow: (id: string, signal?: AbortSignal): AsyncGenerator<ExecutionEvent> =>
      follow(this.#http, `/v1/executions/${part(id)}/events`, signal),
  };

  readonly batches = {
    /** Asks for many executions, at most 1000: all are accepted or none. As safe against a lost answer as one is. */
    create: async (executions: readonly BatchEntryInput[], options: { idempotencyKey?: string } = {}) => {
      const body = { executions, idempotencyKey: options.idempotencyKey ?? newKey() };
      return this.#http.retried(async () => this.#http.json('POST', '/v1/batches', BatchRecord, { body }));
    },
    get: async (id: string, options: Waiting = {}) =>
      this.#http.json('GET', `/v1/batches/${part(id)}`, BatchRecord, { query: waitQuery(options) }),
    /** As it is when all of it has ended. */
    end: (id: string, signal?: AbortSignal) => waitForBatch(this.#http, `/v1/batches/${part(id)}`, signal),
  };

  readonly blobs = {
    upload: async (bytes: Uint8Array<ArrayBuffer>) => {
      const answer = await this.#http.request('POST', '/v1/blobs', {
        body: bytes,
        headers: { 'content-type': 'application/octet-stream' },
      });
      return BlobRecord.parse(JSON.parse(await answer.text()));
    },
  };

  readonly workers = {
    list: async () => (await this.#http.json('GET', '/v1/workers', WorkerList)).workers,
    /** Gives it nothing more; what it has is finished. */
    drain: async (id: string) => this.#setDrained(id, 'drain'),
    undrain: async (id: string) => this.#setDrained(id, 'undrain'),
  };

  readonly joinTokens = {
    create: async (input: { ttlMs?: number } = {}) =>
      this.#http.json('POST', '/v1/join-tokens', JoinTokenRecord, { body: input }),
  };

  readonly keys = {
    create: async (input: { project?: string; role?: KeyRole } = {}) =>
      this.#http.json('POST', '/v1/keys', KeyCreated, { body: input }),
    list: async () => (await this.#http.json('GET', '/v1/keys', KeyList)).keys,
    revoke: async (id: string): Promise<void> => {
      await (await this.#http.request('DELETE', `/v1/keys/${part(id)}`)).text();
    },
  };

  readonly server = {
    get: async () => this.#http.json('GET', '/v1/server', ServerRecord),
  };

  async #setDrained(id: string, verb: 'drain' | 'undrain') {
    const path = `/v1/workers/${part(id)}/${verb}`;
    return this.#http.retried(async () => this.#http.json('POST', path, WorkerRecord));
  }
}

/** Begins with the time: the server keeps keys in their order, and those of one time then lie beside each other. */
const newKey = (): string => `${Date.now().toString(36)}-${crypto.randomUUID()}`;
