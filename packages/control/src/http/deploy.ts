import { type DeployEvent, type DeployProgress, type FunctionDeploy, problemOf } from '@cocore/protocol';
import { deploy } from '../deploy/deploy.ts';
import type { DeployListener } from '../deploy/job.ts';
import { EventStream } from './event-stream.ts';
import type { HttpParts } from './parts.ts';
import { knownError } from './problems.ts';
import type { Answer, Call } from './route.ts';

const KEEP_ALIVE_MS = 15_000;

/** The record at the end; or, to a client that accepts server-sent events, how far it is, and then the record or the problem. */
export async function answerDeploy(parts: HttpParts, call: Call<unknown, FunctionDeploy>): Promise<Answer | undefined> {
  const { caller, body, request, signal } = call;
  if (/\btext\/event-stream\b/.test(request.headers.accept ?? '')) {
    await deployWithEvents(parts, call);
    return undefined;
  }
  const listener: DeployListener = { progress: () => undefined, output: () => Promise.resolve(), signal };
  return { status: 201, body: await deploy(parts, caller.projectId, body, listener) };
}

async function deployWithEvents(parts: HttpParts, call: Call<unknown, FunctionDeploy>): Promise<void> {
  const { caller, body, request, reply, signal } = call;
  const events = new EventStream(reply, signal);
  const send = (event: DeployEvent) => events.send(event);
  const news = new Newest<DeployProgress>((data) => send({ event: 'progress', data }));
  const timer = setInterval(() => void events.keepAlive(), KEEP_ALIVE_MS);
  const listener: DeployListener = {
    progress: (progress) => news.tell(progress),
    output: (data) => send({ event: 'output', data }),
    signal,
  };
  try {
    const record = await deploy(parts, caller.projectId, body, listener);
    await news.settled();
    await send({ event: 'deployed', data: record });
  } catch (error) {
    await news.settled();
    await send({ event: 'failed', data: problemOf(knownError(error, request, parts.log), request.id) });
  } finally {
    clearInterval(timer);
    events.end();
  }
}

/** Passes on what it is told, one at a time; while one is under way only the newest is kept. */
class Newest<T> {
  readonly #pass: (value: T) => Promise<void>;
  #passing: Promise<void> | null = null;
  #next: T | null = null;

  constructor(pass: (value: T) => Promise<void>) {
    this.#pass = pass;
  }

  tell(value: T): void {
    this.#next = value;
    this.#passing ??= this.#run();
  }

  async settled(): Promise<void> {
    await this.#passing;
  }

  async #run(): Promise<void> {
    while (this.#next !== null) {
      const value = this.#next;
      this.#next = null;
      await this.#pass(value);
    }
    this.#passing = null;
  }
}
