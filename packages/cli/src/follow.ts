import { once } from 'node:events';
import type { Writable } from 'node:stream';
import type { CocoreClient } from '@cocore/client';
import { CocoreError, type ExecutionRecord, type StreamName } from '@cocore/protocol';

export type Sinks = Partial<Record<StreamName, Writable>>;

/** Writes an execution's output as it comes, no faster than it is read. Resolves with the final record. */
export async function followOutput(client: CocoreClient, id: string, sinks: Sinks): Promise<ExecutionRecord> {
  for await (const event of client.executions.follow(id)) {
    switch (event.event) {
      case 'execution':
        break;
      case 'output': {
        const sink = sinks[event.data.stream];
        if (sink !== undefined && !sink.write(event.data.bytes)) await once(sink, 'drain');
        break;
      }
      case 'restart':
        process.stderr.write(
          `cocore: the output of another attempt follows, from its beginning (${event.data.attemptId})\n`,
        );
        break;
      case 'end':
        return event.data;
    }
  }
  throw new CocoreError('internal', 'the events ended before the execution did');
}
