import { setTimeout as sleep } from 'node:timers/promises';
import { type CocoreClient } from '@cocore/client';
import { type CancelAnswer, CocoreError, type ExecutionRecord, isTerminal } from '@cocore/protocol';
import { nowMs } from './clock.ts';
import { FUNCTION } from './fleet.ts';
import type { Job } from './jobs.ts';

/** One job as its user saw it; times by the monotonic clock. */
export interface JobRun {
  readonly job: Job;
  /** Every id that was answered. More than one is a fault. */
  readonly ids: Set<string>;
  /** Before the first request. */
  askedMs: number;
  /** After the first answer. */
  acceptedMs: number | null;
  /** When the user knew of the end. */
  endKnownMs: number | null;
  /** The end as the user was told it first. */
  end: ExecutionRecord | null;
  /** What a follower was sent up to the end; null for who did not follow that far. */
  followed: Buffer | null;
  cancel: { readonly askedMs: number; readonly result: CancelAnswer['result'] } | null;
  /** When the control server answered that it could not: `internal`. */
  readonly failuresMs: number[];
  /** Requests that had to be made again, for any reason. */
  repeated: number;
  /** Answers that no fault explains. */
  readonly faults: string[];
}

const AGAIN_MS = 200;
const WAIT_MS = 10_000;

/** Whether it may be different in a moment. */
const isPassing = (error: unknown): error is CocoreError =>
  error instanceof CocoreError && ['server_unreachable', 'not_ready', 'internal'].includes(error.code);

/** All users at once. They give up when the signal aborts. */
export async function work(
  jobs: readonly Job[],
  client: CocoreClient,
  startMs: number,
  giveUp: AbortSignal,
): Promise<JobRun[]> {
  const runs = jobs.map((job): JobRun => ({
    job,
    ids: new Set(),
    askedMs: 0,
    acceptedMs: null,
    endKnownMs: null,
    end: null,
    followed: null,
    cancel: null,
    failuresMs: [],
    repeated: 0,
    faults: [],
  }));
  const one = async (run: JobRun) => {
    await sleep(Math.max(0, startMs + run.job.atMs - nowMs()), undefined, { signal: giveUp });
    await use(run, client, giveUp);
  };
  const given = new Promise<void>((resolve) => giveUp.addEventListener('abort', () => resolve(), { once: true }));
  await Promise.race([
    given,
    Promise.all(
      runs.map(async (run) =>
        one(run).catch((error: unknown) => {
          if (!giveUp.aborted) run.faults.push(error instanceof Error ? `${error.name}: ${error.message}` : 'unknown');
        }),
      ),
    ),
  ]);
  return runs;
}

async function use(run: JobRun, client: CocoreClient, giveUp: AbortSignal): Promise<void> {
  const { args, timeoutMs, idempotencyKey, user } = run.job;
  run.askedMs = nowMs();
  const ask = () =>
    persist(run, giveUp, async () =>
      client.executions.create(FUNCTION, { args: [...args], timeoutMs, idempotencyKey }),
    );
  const answers = await Promise.all(user.asksTwice ? [ask(), ask()] : [ask()]);
  run.acceptedMs = nowMs();
  for (const { id } of answers) run.ids.add(id);
  const { id } = answers[0];
  await Promise.all([
    cancelLater(run, client, id, giveUp),
    user.follows ? follow(run, client, id, giveUp) : wait(run, client, id, giveUp),
  ]);
}

/** Does it until it is answered. */
async function persist<T>(run: JobRun, giveUp: AbortSignal, act: () => Promise<T>): Promise<T> {
  for (;;) {
    giveUp.throwIfAborted();
    try {
      return await act();
    } catch (error) {
      if (!isPassing(error)) throw error;
      run.repeated += 1;
      if (error.code === 'internal') run.failuresMs.push(nowMs());
    }
    await sleep(AGAIN_MS, undefined, { signal: giveUp });
  }
}

async function cancelLater(run: JobRun, client: CocoreClient, id: string, giveUp: AbortSignal): Promise<void> {
  const { cancelsAfterMs } = run.job.user;
  if (cancelsAfterMs === null) return;
  await sleep(cancelsAfterMs, undefined, { signal: giveUp });
  const askedMs = nowMs();
  const { result } = await persist(run, giveUp, async () => client.executions.cancel(id));
  run.cancel = { askedMs, result };
}

async function wait(run: JobRun, client: CocoreClient, id: string, giveUp: AbortSignal): Promise<void> {
  for (;;) {
    const record = await persist(run, giveUp, async () => client.executions.get(id, { waitMs: WAIT_MS }));
    if (!isTerminal(record.state)) continue;
    ended(run, record);
    return;
  }
}

/** As the SDK follows: a connection that is cut is made again, and not a byte may be missing or come twice. */
async function follow(run: JobRun, client: CocoreClient, id: string, giveUp: AbortSignal): Promise<void> {
  await persist(run, giveUp, async () => {
    const pieces: Uint8Array[] = [];
    let length = 0;
    for await (const { event, data } of client.executions.follow(id, giveUp)) {
      if (event === 'end') {
        run.followed = Buffer.concat(pieces);
        ended(run, data);
        return;
      }
      if (event !== 'output' || data.stream !== 'stdout') continue;
      const { bytes } = data;
      if (data.offset !== length) run.faults.push(`a follower at ${length} was sent bytes from ${data.offset} on`);
      pieces.push(bytes);
      length += bytes.length;
    }
  });
}

function ended(run: JobRun, record: ExecutionRecord): void {
  run.endKnownMs = nowMs();
  run.end = record;
}
