import {
  BuildOutput,
  CocoreError,
  type DeployEvent,
  DeployProgress,
  errorOfProblem,
  type FunctionDeployInput,
  FunctionRecord,
  Problem,
} from '@cocore/protocol';
import { z } from 'zod';
import { type Http, unreachable } from './http.ts';
import { SseParser } from './sse.ts';

const DeployEventSchema = z.discriminatedUnion('event', [
  z.object({ event: z.literal('progress'), data: DeployProgress }),
  z.object({ event: z.literal('output'), data: BuildOutput }),
  z.object({ event: z.literal('deployed'), data: FunctionRecord }),
  z.object({ event: z.literal('failed'), data: Problem }),
]);

export interface DeployOptions {
  /** Told how far it is. */
  readonly onEvent?: (event: Extract<DeployEvent, { event: 'progress' | 'output' }>) => void;
  /** Gives the deployment up. */
  readonly signal?: AbortSignal;
}

/** @throws CocoreError the problem's own; `server_unreachable` when the connection breaks before the end: a version may have been made then */
export async function deploy(http: Http, input: FunctionDeployInput, options: DeployOptions): Promise<FunctionRecord> {
  const { onEvent, signal } = options;
  const response = await http.request('POST', '/v1/functions', {
    body: JSON.stringify(input),
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    ...(signal === undefined ? {} : { signal }),
  });
  const parser = new SseParser();
  const decoder = new TextDecoder();
  try {
    for await (const bytes of response.body) {
      for (const raw of parser.push(decoder.decode(bytes, { stream: true }))) {
        const event = DeployEventSchema.parse({ event: raw.event, data: JSON.parse(raw.data) as unknown });
        if (event.event === 'deployed') return event.data;
        if (event.event === 'failed') throw errorOfProblem(event.data);
        onEvent?.(event);
      }
    }
  } catch (cause) {
    if (cause instanceof CocoreError || signal?.aborted === true) throw cause;
    throw unreachable(http.url, cause);
  }
  throw unreachable(http.url, new Error('the connection ended before the deployment did'));
}
