/**
 * The parts of the peers' packages that the adapters use. The packages are no dependencies of the workspace: they are installed when the bench
 * runs, and types are checked without them.
 */

declare module 'bullmq' {
  interface Connection {
    readonly connection: { readonly path: string; readonly maxRetriesPerRequest: null };
  }
  export interface Job {
    waitUntilFinished(events: QueueEvents): Promise<unknown>;
  }
  export class Queue {
    constructor(name: string, options: Connection);
    add(name: string, data: unknown): Promise<Job>;
    addBulk(jobs: readonly { name: string; data: unknown }[]): Promise<Job[]>;
    getJobCounts(...states: readonly string[]): Promise<Record<string, number>>;
    setMaxListeners(count: number): this;
    close(): Promise<void>;
  }
  export class QueueEvents {
    constructor(name: string, options: Connection);
    waitUntilReady(): Promise<unknown>;
    setMaxListeners(count: number): this;
    close(): Promise<void>;
  }
  export class Worker {
    constructor(name: string, run: () => Promise<unknown>, options: Connection & { readonly concurrency: number });
    waitUntilReady(): Promise<unknown>;
    close(): Promise<void>;
  }
}

declare module 'pg-boss' {
  export class PgBoss {
    constructor(options: Readonly<Record<string, unknown>>);
    on(event: 'error', listener: (error: Error) => void): this;
    start(): Promise<unknown>;
    stop(options: { graceful: boolean }): Promise<void>;
    createQueue(name: string, options: { notify: boolean }): Promise<void>;
    send(name: string, data: object): Promise<string | null>;
    insert(name: string, jobs: readonly { data: object }[]): Promise<unknown>;
    work(
      name: string,
      options: Readonly<Record<string, unknown>>,
      run: (jobs: readonly object[]) => Promise<unknown>,
    ): Promise<string>;
  }
}

declare module 'graphile-worker' {
  interface Options {
    readonly connectionString: string;
    readonly maxPoolSize?: number;
    readonly logger: Logger;
  }
  export class Logger {
    constructor(make: () => () => void);
  }
  export interface WorkerUtils {
    migrate(): Promise<void>;
    addJob(name: string, payload: unknown): Promise<{ readonly id: string }>;
    addJobs(jobs: readonly { identifier: string; payload: unknown }[]): Promise<unknown>;
    release(): Promise<void>;
  }
  export function makeWorkerUtils(options: Options): Promise<WorkerUtils>;
  export function run(
    options: Options & {
      readonly concurrency: number;
      readonly taskList: Readonly<Record<string, () => Promise<void>>>;
      readonly noHandleSignals: boolean;
      readonly preset?: { readonly worker: Readonly<Record<string, unknown>> };
    },
  ): Promise<{ stop(): Promise<void> }>;
}

declare module '@dbos-inc/dbos-sdk' {
  interface Handle {
    getResult(options?: { readonly pollingIntervalMs: number }): Promise<unknown>;
  }
  interface Log {
    readonly info: () => void;
    readonly debug: () => void;
    readonly warn: () => void;
    readonly error: (...said: unknown[]) => void;
  }
  export class DBOSClient {
    static create(options: {
      readonly systemDatabaseUrl: string;
      readonly systemDatabasePoolSize: number;
      readonly logger: Log;
    }): Promise<DBOSClient>;
    enqueue(
      options: { readonly queueName: string; readonly workflowName: string },
      ...args: unknown[]
    ): Promise<Handle>;
    destroy(): Promise<void>;
  }
  export const DBOS: {
    setConfig(config: Readonly<Record<string, unknown>>): void;
    registerWorkflow(
      run: (value: number) => Promise<number>,
      options: { readonly name: string },
    ): (value: number) => Promise<number>;
    registerQueue(name: string, options: Readonly<Record<string, unknown>>): Promise<unknown>;
    launch(): Promise<void>;
    shutdown(): Promise<void>;
  };
}

declare module '@restatedev/restate-sdk' {
  interface Service {
    readonly name: string;
  }
  export function service(definition: {
    readonly name: string;
    readonly handlers: Readonly<Record<string, (context: unknown, input: number) => Promise<number>>>;
  }): Service;
  export function serve(options: { readonly services: readonly Service[]; readonly port: number }): Promise<number>;
}

declare module '@restatedev/restate-sdk-clients' {
  interface Handlers {
    noop(input: number): Promise<unknown>;
  }
  export function connect(options: { readonly url: string }): {
    serviceClient(service: { readonly name: string }): Handlers;
    serviceSendClient(service: { readonly name: string }): Handlers;
  };
}
