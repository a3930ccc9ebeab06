import type { FollowEvent } from '@cocore/protocol';
import type { TestServer } from './test-server.ts';

/** Reads server-sent events as they come; comments are counted. */
export class EventStream implements AsyncDisposable {
  readonly status: number;
  comments = 0;
  readonly #controller: AbortController;
  readonly #events: AsyncGenerator<FollowEvent>;

  private constructor(response: Response, controller: AbortController) {
    this.status = response.status;
    this.#controller = controller;
    this.#events = this.#parse(response.body!);
  }

  static async open(server: TestServer, id: string, lastEventId?: string): Promise<EventStream> {
    const controller = new AbortController();
    const response = await fetch(`${server.url}/v1/executions/${id}/events`, {
      signal: controller.signal,
      headers: {
        authorization: `Bearer ${server.key}`,
        ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
      },
    });
    return new EventStream(response, controller);
  }

  /** The next event; null when the stream has ended. */
  async next(): Promise<FollowEvent | null> {
    const result: IteratorResult<FollowEvent, unknown> = await this.#events.next();
    return result.done === true ? null : result.value;
  }

  async nextOf<Event extends FollowEvent['event']>(event: Event): Promise<Extract<FollowEvent, { event: Event }>> {
    for (;;) {
      const next = await this.next();
      if (next === null) throw new Error(`the stream ended before ${event}`);
      if (next.event === event) return next as Extract<FollowEvent, { event: Event }>;
    }
  }

  async rest(): Promise<FollowEvent[]> {
    const events: FollowEvent[] = [];
    for (let event = await this.next(); event !== null; event = await this.next()) events.push(event);
    return events;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#controller.abort();
    await this.#events.return(undefined).catch(() => undefined);
  }

  async *#parse(body: ReadableStream<Uint8Array>): AsyncGenerator<FollowEvent> {
    const decoder = new TextDecoder();
    let text = '';
    for await (const chunk of body) {
      text += decoder.decode(chunk, { stream: true });
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const block = text.slice(0, end);
        text = text.slice(end + 2);
        if (block.startsWith(':')) {
          this.comments += 1;
          continue;
        }
        const fields = new Map(
          block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
        );
        yield {
          event: fields.get('event'),
          id: fields.get('id'),
          data: JSON.parse(fields.get('data')!) as unknown,
        } as FollowEvent;
      }
    }
  }
}
