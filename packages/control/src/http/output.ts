import { Readable } from 'node:stream';
import { CocoreError, type ExecutionRecord, OutputQuery, StreamName } from '@cocore/protocol';
import { shownAttempt } from '../shown-attempt.ts';
import { readExecution } from './executions.ts';
import { follow } from './follow.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

/** @throws CocoreError `execution_not_found`, `output_expired` */
async function readKept(parts: HttpParts, projectId: string, executionId: string): Promise<ExecutionRecord> {
  const record = await readExecution(parts, projectId, executionId);
  if (record.expired) throw new CocoreError('output_expired', `the output of ${executionId} is kept no more`);
  return record;
}

export function outputRoutes(parts: HttpParts): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/executions/{execution}/output/{stream}',
      summary: 'The committed bytes of one stream, from an offset',
      access: 'key',
      query: OutputQuery,
      answers: { 200: 'octets' },
      handle: async ({ caller, parameters, query, reply }) => {
        const stream = StreamName.safeParse(parameters['stream']);
        if (!stream.success) {
          throw new CocoreError('route_not_found', `an execution has no stream ${parameters['stream']}`);
        }
        const record = await readKept(parts, caller.projectId, parameters['execution']!);
        const { bytes } = record.output[stream.data];
        if (query.offset > bytes) {
          throw new CocoreError(
            'invalid_request',
            `offset ${query.offset} is beyond the ${bytes} bytes that are committed`,
          );
        }
        const attempt = { projectId: caller.projectId, attemptId: shownAttempt(record) };
        // No browser may take what a function wrote for a page.
        void reply
          .header('content-type', 'application/octet-stream')
          .header('content-disposition', `attachment; filename="${record.id}.${stream.data}"`)
          .header('content-security-policy', "sandbox; default-src 'none'")
          .header('content-length', bytes - query.offset);
        return {
          status: 200,
          body: Readable.from(parts.output.read(attempt, stream.data, query.offset, bytes), { objectMode: false }),
        };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/executions/{execution}/artifacts',
      summary: 'What an execution left in $COCORE_OUT, as a tar archive',
      access: 'key',
      answers: { 200: 'tar' },
      handle: async ({ caller, parameters, reply }) => {
        const record = await readKept(parts, caller.projectId, parameters['execution']!);
        const { artifacts } = record;
        if (artifacts === null) throw new CocoreError('artifacts_not_found', `${record.id} has no artifacts`);
        const attempt = { projectId: caller.projectId, attemptId: shownAttempt(record) };
        const digest = Buffer.from(artifacts.sha256.slice('sha256:'.length), 'hex').toString('base64');
        void reply
          .header('content-type', 'application/x-tar')
          .header('content-disposition', `attachment; filename="${record.id}.tar"`)
          .header('content-security-policy', "sandbox; default-src 'none'")
          .header('content-length', artifacts.bytes)
          .header('repr-digest', `sha-256=:${digest}:`);
        const bytes = parts.output.read(attempt, 'artifacts', 0, artifacts.bytes);
        return { status: 200, body: Readable.from(bytes, { objectMode: false }) };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/executions/{execution}/events',
      summary: 'Follows an execution: its record at each change, its output as it is committed, its end',
      access: 'key',
      answers: { 200: 'events' },
      handle: async ({ caller, parameters, request, reply, signal }) => {
        const executionId = parameters['execution']!;
        const read = () => readExecution(parts, caller.projectId, executionId);
        const first = await readKept(parts, caller.projectId, executionId);
        const lastEventId = request.headers['last-event-id'];
        await follow({
          ...parts,
          projectId: caller.projectId,
          first,
          read,
          accept: request.headers.accept ?? '',
          lastEventId: typeof lastEventId === 'string' ? lastEventId : null,
          reply,
          signal,
        });
        return undefined;
      },
    }),
  ];
}
