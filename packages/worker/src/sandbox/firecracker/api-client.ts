import { Agent, type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type {
  Action,
  BootSource,
  Drive,
  EntropyDevice,
  InstanceInfo,
  MachineConfiguration,
  Metrics,
  NetworkInterface,
  PartialDrive,
  SerialDevice,
  SnapshotCreateParams,
  SnapshotLoadParams,
  Vsock,
} from './api-types.ts';

/** Nothing that is asked for is longer; a longer answer is no answer of Firecracker. */
const MAX_ANSWER_BYTES = 64 * 1024;
/** Between two looks whether the monitor listens. */
const LISTEN_AGAIN_MS = 5;

const Fault = z.object({ fault_message: z.string() });
const Version = z.object({ firecracker_version: z.string() });
const Instance = z.object({
  id: z.string(),
  state: z.enum(['Not started', 'Running', 'Paused']),
  vmm_version: z.string(),
});

export interface ApiClientOptions {
  readonly socketPath: string;
  /** How long one call may take. */
  readonly deadlineMs?: number;
  /** Ends a call under way, and every later one. */
  readonly signal?: AbortSignal;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** Nobody is at the other end any more: the monitor has ended, or is about to. */
export class ConnectionBroken extends Error {}

/**
 * Firecracker's API over its Unix socket: one method for each call that the driver makes. Calls are made one at a time, over one
 * connection. Every method rejects with what was asked, and what Firecracker said against it.
 */
export class ApiClient implements Disposable {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  readonly #socketPath: string;
  readonly #deadlineMs: number;
  readonly #signal: AbortSignal;

  constructor({ socketPath, deadlineMs = 5_000, signal = new AbortController().signal }: ApiClientOptions) {
    this.#socketPath = socketPath;
    this.#deadlineMs = deadlineMs;
    this.#signal = signal;
  }

  /** Closes the connection; a call under way rejects. */
  [Symbol.dispose](): void {
    this.#agent.destroy();
  }

  async instance(): Promise<InstanceInfo> {
    return this.#get('/', Instance);
  }

  async version(): Promise<string> {
    return (await this.#get('/version', Version)).firecracker_version;
  }

  putMetrics(metrics: Metrics): Promise<void> {
    return this.#change('PUT', '/metrics', metrics);
  }

  putMachineConfig(machine: MachineConfiguration): Promise<void> {
    return this.#change('PUT', '/machine-config', machine);
  }

  putBootSource(source: BootSource): Promise<void> {
    return this.#change('PUT', '/boot-source', source);
  }

  putDrive(drive: Drive): Promise<void> {
    return this.#change('PUT', `/drives/${encodeURIComponent(drive.drive_id)}`, drive);
  }

  patchDrive(drive: PartialDrive): Promise<void> {
    return this.#change('PATCH', `/drives/${encodeURIComponent(drive.drive_id)}`, drive);
  }

  putNetworkInterface(card: NetworkInterface): Promise<void> {
    return this.#change('PUT', `/network-interfaces/${encodeURIComponent(card.iface_id)}`, card);
  }

  putVsock(vsock: Vsock): Promise<void> {
    return this.#change('PUT', '/vsock', vsock);
  }

  putEntropy(device: EntropyDevice): Promise<void> {
    return this.#change('PUT', '/entropy', device);
  }

  putSerial(device: SerialDevice): Promise<void> {
    return this.#change('PUT', '/serial', device);
  }

  act(action: Action): Promise<void> {
    return this.#change('PUT', '/actions', { action_type: action });
  }

  patchVm(state: 'Paused' | 'Resumed'): Promise<void> {
    return this.#change('PATCH', '/vm', { state });
  }

  createSnapshot(params: SnapshotCreateParams): Promise<void> {
    return this.#change('PUT', '/snapshot/create', params);
  }

  loadSnapshot(params: SnapshotLoadParams): Promise<void> {
    return this.#change('PUT', '/snapshot/load', params);
  }

  async #get<T>(path: string, schema: z.ZodType<T>): Promise<T> {
    const { status, text } = await this.#ask('GET', path, null);
    if (status !== 200) throw refusal('GET', path, status, text);
    const parsed = schema.safeParse(json(text));
    if (!parsed.success) throw new Error(`Firecracker answered GET ${path} with what cannot be read`);
    return parsed.data;
  }

  async #change(method: 'PUT' | 'PATCH', path: string, body: object): Promise<void> {
    const { status, text } = await this.#ask(method, path, JSON.stringify(body));
    if (status !== 204) throw refusal(method, path, status, text);
  }

  async #ask(method: string, path: string, body: string | null): Promise<Answer> {
    const due = AbortSignal.timeout(this.#deadlineMs);
    const signal = AbortSignal.any([this.#signal, due]);
    const headers =
      body === null ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
    for (;;) {
      try {
        const response = await new Promise<IncomingMessage>((resolve, reject) => {
          const options = { socketPath: this.#socketPath, agent: this.#agent, signal, method, path };
          const sent = request({ ...options, headers: { Accept: 'application/json', ...headers } });
          sent.once('response', resolve).once('error', reject).end(body);
        });
        return { status: response.statusCode ?? 0, text: await boundedText(response) };
      } catch (cause) {
        this.#signal.throwIfAborted();
        if (due.aborted)
          throw new Error(`Firecracker did not answer ${method} ${path}: not within ${this.#deadlineMs} ms`);
        if (codeOf(cause) === 'ECONNREFUSED') {
          // Its socket is there before it listens, and after it has died; then the signal says so.
          await sleep(LISTEN_AGAIN_MS);
          continue;
        }
        const message = `Firecracker did not answer ${method} ${path}: ${messageOf(cause)}`;
        throw isBroken(cause) ? new ConnectionBroken(message, { cause }) : new Error(message, { cause });
      }
    }
  }
}

async function boundedText(response: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    length += piece.length;
    // Leaving the loop destroys the connection.
    if (length > MAX_ANSWER_BYTES) throw new Error(`its answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refusal(method: string, path: string, status: number, text: string): Error {
  const fault = Fault.safeParse(json(text));
  const why = fault.success ? fault.data.fault_message : 'it did not say why';
  return new Error(`Firecracker refused ${method} ${path} with ${status}: ${why.slice(0, 1000)}`);
}

const codeOf = (error: unknown) => String((error as NodeJS.ErrnoException).code);
const isBroken = (error: unknown) => ['ECONNRESET', 'EPIPE'].includes(codeOf(error));

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
