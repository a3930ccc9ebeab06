import {
  CocoreError,
  EVENT_FRAMES_TYPE,
  type EventFrame,
  EventFrameDecoder,
  ExecutionRecord,
  type FollowEvent,
  fromBase64,
  OutputEvent,
  OutputHead,
  RestartEvent,
} from '@cocore/protocol';
import { z } from 'zod';
import { type Http, isPassing } from './http.ts';
import { SseParser } from './sse.ts';

const OTHER_EVENTS = [
  z.object({ event: z.literal('execution'), id: z.string(), data: ExecutionRecord }),
  z.object({ event: z.literal('restart'), id: z.string(), data: RestartEvent }),
  z.object({ event: z.literal('end'), id: z.string(), data: ExecutionRecord }),
] as const;
const SentEventSchema = z.discriminatedUnion('event', [
  z.object({ event: z.literal('output'), id: z.string(), data: OutputEvent }),
  ...OTHER_EVENTS,
]);
const FrameHeadSchema = z.discriminatedUnion('event', [
  z.object({ event: z.literal('output'), id: z.string(), data: OutputHead }),
  ...OTHER_EVENTS,
]);

/** What a follower is told: a `FollowEvent`, with output as bytes. Output that came at once may be told in several pieces, all with the id of what is after the last. */
export type ExecutionEvent =
  Exclude<FollowEvent, { event: 'output' }> | { event: 'output'; id: string; data: OutputHead & { bytes: Uint8Array } };

/** How long who waits goes on trying to reach a server that is gone. */
export const GIVE_UP_MS = 60_000;
export const RECONNECT_MS = 500;
const ACCEPT = `${EVENT_FRAMES_TYPE}, text/event-stream`;

/** @throws CocoreError `internal` */
function parse<T>(schema: z.ZodType<T>, of: () => unknown): T {
  try {
    return schema.parse(of());
  } catch (cause) {
    throw new CocoreError('internal', 'an event is not what this client knows', { cause });
  }
}

type Body = AsyncIterable<Uint8Array>;

async function* sentEvents(body: Body): AsyncGenerator<ExecutionEvent> {
  const parser = new SseParser();
  const decoder = new TextDecoder();
  for await (const bytes of body) {
    for (const raw of parser.push(decoder.decode(bytes, { stream: true }))) {
      const event = parse(SentEventSchema, () => ({ ...raw, data: JSON.parse(raw.data) as unknown }));
      if (event.event !== 'output') yield event;
      else {
        const { base64, ...head } = event.data;
        yield { ...event, data: { ...head, bytes: fromBase64(base64) } };
      }
    }
  }
}

async function* frameEvents(body: Body): AsyncGenerator<ExecutionEvent> {
  const decoder = new EventFrameDecoder();
  for await (const bytes of body) for (const frame of decoder.push(bytes)) yield* eventsOf(frame);
}

/** Output that came in several pieces is told piece by piece, so that none is copied. */
function* eventsOf({ head, payload }: EventFrame): Generator<ExecutionEvent> {
  const event = parse(FrameHeadSchema, () => JSON.parse(head));
  if (event.event !== 'output') {
    yield event;
    return;
  }
  let { offset } = event.data;
  for (const bytes of payload) {
    yield { ...event, data: { ...event.data, offset, bytes } };
    offset += bytes.length;
  }
}

/**
 * The events of one execution, up to and including `end`; an older server sends them as server-sent events. A connection that is cut is made again from the last event,
 * so that no byte of output is lost or doubled.
 *
 * @throws CocoreError
 */
export async function* follow(http: Http, path: string, signal?: AbortSignal): AsyncGenerator<ExecutionEvent> {
  let lastId = '';
  let lostAtMs: number | null = null;
  for (;;) {
    try {
      const response = await http.request('GET', path, {
        headers: { accept: ACCEPT, ...(lastId === '' ? {} : { 'last-event-id': lastId }) },
        ...(signal === undefined ? {} : { signal }),
      });
      const read = response.mediaType === EVENT_FRAMES_TYPE ? frameEvents : sentEvents;
      for await (const event of read(response.body)) {
        lostAtMs = null;
        lastId = event.id;
        yield event;
        if (event.event === 'end') return;
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
