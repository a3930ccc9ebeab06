import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { AwsClient } from 'aws4fetch';
import { type S3Options } from '../../../src/s3/options.ts';
import { type Temporary, temporaryDirectory } from '../temporary.ts';

const SERVE = fileURLToPath(new URL('serve.py', import.meta.url));

const CREDENTIALS = { accessKeyId: 'test:tester', secretAccessKey: 'testing' };

/** OpenStack Swift with its S3 interface, on a free port of loopback. */
export class S3Server implements AsyncDisposable {
  readonly endpoint: URL;
  readonly #process: ChildProcess;
  readonly #directory: Temporary;
  #buckets = 0;

  private constructor(process: ChildProcess, directory: Temporary, port: number) {
    this.#process = process;
    this.#directory = directory;
    this.endpoint = new URL(`http://127.0.0.1:${port}`);
  }

  static async start(): Promise<S3Server> {
    const directory = temporaryDirectory();
    // Debian's own, which sees Debian's packages.
    const child = spawn('/usr/bin/python3', [SERVE, directory.path], { stdio: ['pipe', 'pipe', 'inherit'] });
    for await (const line of createInterface({ input: child.stdout })) {
      const port = /^ready (\d+)$/.exec(line)?.[1];
      if (port !== undefined) return new S3Server(child, directory, Number(port));
    }
    throw new Error('the S3 server did not start');
  }

  /** Those of a new bucket. */
  async bucket(change: Partial<S3Options> = {}): Promise<S3Options> {
    this.#buckets += 1;
    const bucket = `blobs-${this.#buckets}`;
    const response = await new AwsClient({ ...CREDENTIALS, service: 's3', region: 'us-east-1' }).fetch(
      `${this.endpoint.origin}/${bucket}`,
      { method: 'PUT' },
    );
    if (!response.ok) throw new Error(`the bucket was not made: ${response.status} ${await response.text()}`);
    return {
      endpoint: this.endpoint,
      publicEndpoint: null,
      region: 'us-east-1',
      bucket,
      prefix: 'some/where/',
      ...CREDENTIALS,
      sessionToken: null,
      ...change,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exited = once(this.#process, 'exit');
    this.#process.stdin!.end();
    await exited;
    this.#directory[Symbol.dispose]();
  }
}
