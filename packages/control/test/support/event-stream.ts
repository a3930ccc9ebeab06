import { EVENT_FRAMES_TYPE, EventFrameDecoder, type FollowEvent, type OutputHead } from '@cocore/protocol';
import type { TestServer } from './test-server.ts';

/** Server-sent events, or frames. */
export type Form = 'text' | 'frames';
export const FORMS = ['text', 'frames'] as const;
const MEDIA_TYPE = { text: 'text/event-stream', frames: EVENT_FRAMES_TYPE };

/** Reads events as they come, those of frames as if they were server-sent; comments are counted. */
export class EventStream implements AsyncDisposable {
  readonly status: number;
  readonly mediaType: string | null;
  comments = 0;
  readonly #controller: AbortController;
  readonly #events: AsyncGenerator<FollowEvent>;

  private constructor(response: Response, controller: AbortController) {
    this.status = response.status;
    this.#controller = controller;
    this.mediaType = response.headers.get('content-type');
    this.#events = this.mediaType === EVENT_FRAMES_TYPE ? this.#frames(response.body!) : this.#parse(response.body!);
  }

  /** @param form null to say nothing of it */
  static async open(
    server: TestServer,
    id: string,
    lastEventId?: string,
    form: Form | null = null,
  ): Promise<EventStream> {
    const controller = new AbortController();
    const response = await fetch(`${server.url}/v1/executions/${id}/events`, {
      signal: controller.signal,
      headers: {
        authorization: `Bearer ${server.key}`,
        ...(form === null ? {} : { accept: MEDIA_TYPE[form] }),
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

  async *#frames(body: ReadableStream<Uint8Array>): AsyncGenerator<FollowEvent> {
    const decoder = new EventFrameDecoder();
    for await (const chunk of body) {
      for (const { head, payload } of decoder.push(chunk)) {
        const event = JSON.parse(head) as Exclude<FollowEvent, { event: 'output' }> | OutputFrame;
        if (event.event !== 'output') yield event;
        else yield { ...event, data: { ...event.data, base64: Buffer.concat(payload).toString('base64') } };
      }
    }
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

interface OutputFrame {
  event: 'output';
  id: string;
  data: OutputHead;
}
