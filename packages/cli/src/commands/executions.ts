import {
  type AttemptOutcome,
  type AttemptRecord,
  type EgressUsage,
  type ExecutionRecord,
  orBetter,
  type StreamName,
} from '@cocore/protocol';
import { Command, Option } from 'commander';
import { connect } from '../context.ts';
import { followOutput, type Sinks } from '../follow.ts';
import { ago, plain, printJson, printTable } from '../print.ts';
import { wholeNumber } from '../units.ts';
import { whyItWaits } from '../waiting.ts';

export const stateOf = (record: ExecutionRecord) => {
  const more = record.phase ?? record.reason;
  return more === null ? record.state : `${record.state} (${more})`;
};

function psCommand(): Command {
  return new Command('ps')
    .description('list executions, newest first')
    .option('--state <state>', 'only those in this state')
    .option('--function <function>', 'only those of this function')
    .option('--batch <id>', 'only those of this batch')
    .option('--limit <n>', 'at most so many', wholeNumber, 20)
    .option('--json', 'print the records')
    .action(async (options: { state?: string; function?: string; batch?: string; limit: number; json?: true }) => {
      const { json, ...query } = options;
      const list = await connect(process.env).executions.list(query);
      if (json === true) return printJson(list);
      const rows = list.executions.map((record) => [
        record.id,
        record.functionName,
        stateOf(record),
        orBetter(record.isolation),
        ago(record.createdAt),
        record.waiting === null ? '' : whyItWaits(record.waiting),
      ]);
      printTable(['ID', 'FUNCTION', 'STATE', 'ISOLATION', 'CREATED', 'WAITS BECAUSE'], rows);
    });
}

/** An attempt may have ended before the first heartbeat that told of its agent. */
function heartbeatOf({ lastBeatAt, agentAgeMs }: AttemptRecord): string {
  if (lastBeatAt === null) return 'none yet';
  return `${ago(lastBeatAt)}${agentAgeMs === null ? '' : `; agent heard ${agentAgeMs} ms before`}`;
}

/** Such as `exited 3` and `lost host_lost`. */
const outcomeOf = (outcome: AttemptOutcome): string => Object.values(outcome).join(' ');

function networkUse({ sentBytes, receivedBytes, connections, refused, limited }: EgressUsage): string {
  const parts = [
    `${sentBytes} bytes sent`,
    `${receivedBytes} received`,
    `${connections} connections`,
    `${refused} refused`,
  ];
  return [...parts, ...(limited ? ['ended by its limit'] : [])].join(', ');
}

function attemptRows(attempt: AttemptRecord): [string, string][] {
  const { host, guest, egress } = attempt.usage;
  const usage = (reading: typeof host) =>
    reading === null
      ? 'not measured'
      : `${reading.cpuMs?.toFixed(0) ?? '–'} ms CPU, ${((reading.memoryPeakBytes ?? 0) / 2 ** 20).toFixed(0)} MiB peak`;
  const why = attempt.cause === 'first' ? '' : `, a ${attempt.cause}`;
  const rows: [string, string][] = [[`attempt ${attempt.number}`, `${attempt.id}, ${attempt.state}${why}`]];
  if (attempt.workerId === null) return rows;
  return [
    ...rows,
    ['  worker', `${attempt.workerId ?? '–'} (${attempt.driver ?? '–'}, ${attempt.isolation ?? '–'})`],
    ...(attempt.outcome === null ? [] : [['  end', outcomeOf(attempt.outcome)] satisfies [string, string]]),
    ...(attempt.lateEnd === null
      ? []
      : [['  said later', outcomeOf(attempt.lateEnd.outcome)] satisfies [string, string]]),
    ['  heartbeat', heartbeatOf(attempt)],
    ['  usage, host', usage(host)],
    ['  usage, guest', usage(guest)],
    ...(egress === null ? [] : [['  network', networkUse(egress)] satisfies [string, string]]),
  ];
}

const MAX_SHOWN_RESULT = 200;
const shortened = (text: string) => (text.length <= MAX_SHOWN_RESULT ? text : `${text.slice(0, MAX_SHOWN_RESULT)}…`);

function printRecord(record: ExecutionRecord): void {
  const { stdout, stderr } = record.output;
  const cut = (stream: typeof stdout) => `${stream.bytes} bytes${stream.truncated ? ', cut' : ''}`;
  const rows: [string, string | null][] = [
    ['execution', record.id],
    ['function', `${record.functionName} version ${record.version}`],
    ['state', stateOf(record)],
    ['isolation', orBetter(record.isolation)],
    ['priority', record.priority === 0 ? null : String(record.priority)],
    ['key', record.concurrencyKey === null ? null : `${record.concurrencyKey}, ${record.concurrencyLimit} at a time`],
    ['waits because', record.waiting === null ? null : whyItWaits(record.waiting)],
    ['waits at most', record.waiting === null ? null : `${record.queueTtlMs / 1000} s`],
    ['expired', record.expired ? 'its arguments, result, output and attempts are kept no more' : null],
    ['message', record.message],
    ['exit code', record.exitCode === null ? null : String(record.exitCode)],
    ['signal', record.signal === null ? null : String(record.signal)],
    ['created', record.createdAt],
    ['accepted', record.acceptedAt],
    ['started', record.startedAt],
    ['ended', record.endedAt],
    ['result', record.result === null ? null : shortened(JSON.stringify(record.result.value))],
    ['exception', record.error === null ? null : `${record.error.type}: ${record.error.message}`],
    [
      'artifacts',
      record.artifacts === null ? null : `${record.artifacts.files} files, ${record.artifacts.bytes} bytes`,
    ],
    ['stdout', cut(stdout)],
    ['stderr', cut(stderr)],
    ...record.attempts.flatMap(attemptRows),
  ];
  for (const [name, value] of rows) {
    if (value !== null) process.stdout.write(`${name.padEnd(16)}${plain(value)}\n`);
  }
}

function getCommand(): Command {
  return new Command('get')
    .description('show one execution')
    .argument('<id>')
    .option('--json', 'print the record')
    .action(async (id: string, options: { json?: true }) => {
      const record = await connect(process.env).executions.get(id);
      if (options.json === true) printJson(record);
      else printRecord(record);
    });
}

function logsCommand(): Command {
  return new Command('logs')
    .description('print an execution’s output')
    .argument('<id>')
    .option('-f, --follow', 'go on until it ends')
    .addOption(new Option('--stream <stream>', 'one stream only').choices(['stdout', 'stderr']))
    .option('--json', 'print the record with its output')
    .action(async (id: string, options: { follow?: true; stream?: StreamName; json?: true }) => {
      const client = connect(process.env);
      const sinks: Sinks = { stdout: process.stdout, stderr: process.stderr };
      const wanted: StreamName[] = options.stream === undefined ? ['stdout', 'stderr'] : [options.stream];
      if (options.json === true) {
        if (options.follow === true) await followOutput(client, id, {});
        return printJson(await client.executions.get(id, { waitMs: 0 }));
      }
      if (options.follow === true) {
        await followOutput(client, id, Object.fromEntries(wanted.map((stream) => [stream, sinks[stream]])));
        return;
      }
      for (const stream of wanted) {
        for await (const bytes of await client.executions.output(id, stream)) sinks[stream]!.write(bytes);
      }
    });
}

export const executionCommands = (): Command[] => [psCommand(), getCommand(), logsCommand()];
