import { type AttemptRecord, type ExecutionRecord, type Outcome, orBetter, type StreamName } from '@cocore/protocol';
import { Command, Option } from 'commander';
import { connect } from '../context.ts';
import { followOutput, type Sinks } from '../follow.ts';
import { ago, plain, printJson, printTable } from '../print.ts';
import { wholeNumber } from '../units.ts';

const stateOf = (record: ExecutionRecord) => {
  const more = record.phase ?? record.reason;
  return more === null ? record.state : `${record.state} (${more})`;
};

function psCommand(): Command {
  return new Command('ps')
    .description('list executions, newest first')
    .option('--state <state>', 'only those in this state')
    .option('--function <function>', 'only those of this function')
    .option('--limit <n>', 'at most so many', wholeNumber, 20)
    .option('--json', 'print the records')
    .action(async (options: { state?: string; function?: string; limit: number; json?: true }) => {
      const { json, ...query } = options;
      const list = await connect(process.env).executions.list(query);
      if (json === true) return printJson(list);
      const rows = list.executions.map((record) => [
        record.id,
        record.functionName,
        stateOf(record),
        orBetter(record.isolation),
        ago(record.createdAt),
        record.waiting?.message ?? '',
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
const outcomeOf = (outcome: Outcome): string => Object.values(outcome).join(' ');

function attemptRows(attempt: AttemptRecord): [string, string][] {
  const { host, guest } = attempt.usage;
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
    ['  heartbeat', heartbeatOf(attempt)],
    ['  usage, host', usage(host)],
    ['  usage, guest', usage(guest)],
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
    ['waits because', record.waiting?.message ?? null],
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

const CANCEL_WORDS = {
  cancelled: 'cancelled before it ran',
  requested: 'is being cancelled',
  already_requested: 'was being cancelled already',
  already_ended: 'had ended already',
};

function cancelCommand(): Command {
  return new Command('cancel')
    .description('stop an execution')
    .argument('<id>')
    .option('--json', 'print the answer')
    .action(async (id: string, options: { json?: true }) => {
      const answer = await connect(process.env).executions.cancel(id);
      if (options.json === true) return printJson(answer);
      process.stdout.write(`${answer.execution.id} ${CANCEL_WORDS[answer.result]}: ${stateOf(answer.execution)}\n`);
    });
}

export const executionCommands = (): Command[] => [psCommand(), getCommand(), logsCommand(), cancelCommand()];
