import { CocoreError, ExecutionRecord, type FollowEvent, OutputEvent, RestartEvent } from '@cocore/protocol';
import { z } from 'zod';
import { type Http, isPassing } from './http.ts';
import { type ServerSentEvent, SseParser } from './sse.ts';

const FollowEventSchema = z.discriminatedUnion('event', [
  z.object({ event: z.literal('execution'), id: z.string(), data: ExecutionRecord }),
  z.object({ event: z.literal('output'), id: z.string(), data: OutputEvent }),
  z.object({ event: z.literal('restart'), id: z.string(), data: RestartEvent }),
  z.object({ event: z.literal('end'), id: z.string(), data: ExecutionRecord }),
]);

/** How long who waits goes on trying to reach a server that is gone. */
export const GIVE_UP_MS = 60_000;
export const RECONNECT_MS = 500;

function eventOf(event: ServerSentEvent): FollowEvent {
  try {
    return FollowEventSchema.parse({ ...event, data: JSON.parse(event.data) as unknown });
  } catch (cause) {
    throw new CocoreError('internal', 'an event is not what this client knows', { cause });
  }
}

/**
 * The events of one execution, up to and including `end`. A connection that is cut is made again from the last event,
 * so that no byte of output is lost or doubled.
 *
 * @throws CocoreError
 */
export async function* follow(http: Http, path: string, signal?: AbortSignal): AsyncGenerator<FollowEvent> {
  let lastId = '';
  let lostAtMs: number | null = null;
  for (;;) {
    try {
      const response = await http.request('GET', path, {
        headers: { accept: 'text/event-stream', ...(lastId === '' ? {} : { 'last-event-id': lastId }) },
        ...(signal === undefined ? {} : { signal }),
      });
      const parser = new SseParser();
      const decoder = new TextDecoder();
      for await (const bytes of response.body) {
        lostAtMs = null;
        for (const raw of parser.push(decoder.decode(bytes, { stream: true }))) {
          const event = eventOf(raw);
          lastId = event.id;
          yield event;
          if (event.event === 'end') return;
        }
      }
    } catch (error) {
      if (signal?.aborted === true) throw error;
      // What the server refused stays refused; anything else is a connection that broke.
      if (error instanceof CocoreError && !isPassing(error)) throw error;
      lostAtMs ??= Date.now();
      if (Date.now() - lostAtMs > GIVE_UP_MS) throw error;
    }
    await new Promise<void>((resolve) => setTimeout(resolve, RECONNECT_MS));
  }
}
