import { ATTEMPT_STREAMS, type AttemptStream, CocoreError } from '@cocore/protocol';
import type { DataDir } from '../../data-dir.ts';
import { readSegment, segmentPath } from '../../output/segments.ts';
import type { Database } from '../sqlite/database.ts';
import { INLINE_OUTPUT_BYTES } from '../store.ts';
import type { MovedTable } from './plan.ts';
import type { Row } from './rows.ts';

/** The rows that output is in. */
export const OUTPUT_TABLE = 'output_chunks';

interface Filed {
  readonly project_id: string;
  readonly attempt_id: string;
  readonly stream: AttemptStream;
  /** The committed length of the whole stream. */
  readonly length: number;
}

/** The streams that are longer than what the embedded store keeps of them: the rest is in a file each, unless it is in the archive, where it stays. */
const FILED = ATTEMPT_STREAMS.map(
  (stream) => `
  SELECT project_id, attempt_id, '${stream}' AS stream, ${stream}_bytes AS length FROM attempts
  WHERE ${stream}_bytes > ${INLINE_OUTPUT_BYTES}
    AND attempt_id NOT IN (SELECT attempt_id FROM large_outputs WHERE archived_at IS NOT NULL)`,
).join(' UNION ALL ');

/** How much of output is in files. */
export function filedBytes(from: Database): number {
  const [sum] = from.all<{ bytes: number }>(
    `SELECT coalesce(sum(length - ${INLINE_OUTPUT_BYTES}), 0) AS bytes FROM (${FILED})`,
  );
  return sum!.bytes;
}

/** What is in files, as rows. @throws CocoreError `file_unreadable` where one is not there, or shorter than what is committed */
export async function* filedRows(from: Database, table: MovedTable, dataDir: DataDir): AsyncGenerator<Row> {
  for (const { project_id, attempt_id, stream, length } of from.each<Filed>(FILED)) {
    const path = segmentPath(dataDir.file('output'), attempt_id, stream);
    let offset = INLINE_OUTPUT_BYTES;
    try {
      for await (const data of readSegment(path, offset, length)) {
        const row: Record<string, Row[number]> = { project_id, attempt_id, stream, offset, data };
        yield table.columns.map(({ name }) => row[name]!);
        offset += data.length;
      }
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).syscall === undefined) throw cause;
      throw new CocoreError('file_unreadable', `${path}, which holds output, cannot be read`, { cause });
    }
    if (offset < length) {
      throw new CocoreError(
        'file_unreadable',
        `${path} has ${offset - INLINE_OUTPUT_BYTES} bytes of output; ${length - INLINE_OUTPUT_BYTES} are recorded`,
      );
    }
  }
}
