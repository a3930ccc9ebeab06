import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';
import type { CocoreClient } from '@cocore/client';
import { CocoreError, type CancelManyInput } from '@cocore/protocol';
import { Command, Option } from 'commander';
import { connect } from '../context.ts';
import { printJson } from '../print.ts';
import { durationMs } from '../units.ts';
import { stateOf } from './executions.ts';

interface Options {
  function?: string;
  batch?: string;
  state?: 'open' | 'running';
  olderThan?: number;
  all?: true;
  yes?: true;
  json?: true;
}

const CANCEL_WORDS = {
  cancelled: 'cancelled before it ran',
  requested: 'is being cancelled',
  already_requested: 'was being cancelled already',
  already_ended: 'had ended already',
};

export function cancelCommand(): Command {
  return new Command('cancel')
    .description('stop an execution, or all that meet every criterion given')
    .argument('[id]')
    .option('--function <function>', 'all of this function')
    .option('--batch <id>', 'all of this batch')
    .addOption(new Option('--state <state>', 'all in this state').choices(['open', 'running']))
    .option('--older-than <duration>', 'all that were asked for so long ago, such as 1h', durationMs)
    .addOption(new Option('--all', 'all of the project').conflicts(['function', 'batch', 'state', 'olderThan']))
    .option('-y, --yes', 'do not ask; needed where nobody can be asked')
    .option('--json', 'print the answer')
    .action(async (id: string | undefined, options: Options) => {
      const criteria = criteriaOf(options, Date.now());
      const isMany = Object.keys(criteria).length > 0;
      if (id === undefined && !isMany) {
        throw new CocoreError('usage', 'give an id, or --function, --batch, --state, --older-than or --all');
      }
      if (id !== undefined && isMany) throw new CocoreError('usage', 'give an id or criteria, not both');
      const client = connect(process.env);
      await (id === undefined ? cancelMany(client, criteria, options) : cancelOne(client, id, options));
    });
}

function criteriaOf({ function: fn, batch, state, olderThan, all }: Options, nowMs: number): CancelManyInput {
  return {
    ...(fn === undefined ? {} : { function: fn }),
    ...(batch === undefined ? {} : { batch }),
    ...(state === undefined ? {} : { state }),
    ...(olderThan === undefined ? {} : { createdBefore: new Date(nowMs - olderThan).toISOString() }),
    ...(all === undefined ? {} : { all }),
  };
}

async function cancelOne(client: CocoreClient, id: string, { json }: Options): Promise<void> {
  const answer = await client.executions.cancel(id);
  if (json === true) return printJson(answer);
  process.stdout.write(`${answer.execution.id} ${CANCEL_WORDS[answer.result]}: ${stateOf(answer.execution)}\n`);
}

/** Where somebody is at a terminal they are told how many, and asked; elsewhere `--yes` has to say it. */
async function cancelMany(client: CocoreClient, criteria: CancelManyInput, { yes, json }: Options): Promise<void> {
  if (yes !== true) {
    const { matched } = await client.executions.cancelMany({ ...criteria, dryRun: true });
    const many = `${matched} execution${matched === 1 ? '' : 's'}`;
    if (!process.stdin.isTTY || !process.stderr.isTTY) {
      throw new CocoreError('usage', `${many} would be cancelled; say --yes to do so`);
    }
    if (!(await isConfirmed(`Cancel ${many}?`))) {
      process.stderr.write('cocore: nothing is cancelled\n');
      process.exitCode = 1;
      return;
    }
  }
  const answer = await client.executions.cancelMany(criteria);
  if (json === true) return printJson(answer);
  const { cancelled, requested, alreadyRequested } = answer;
  const told = [
    `${cancelled} cancelled before they ran`,
    `${requested} being cancelled`,
    ...(alreadyRequested === 0 ? [] : [`${alreadyRequested} being cancelled already`]),
  ];
  process.stdout.write(`${told.join(', ')}\n`);
}

async function isConfirmed(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // Ctrl-C and the end of the input are answers too.
  const closed = once(terminal, 'close').then(() => '');
  try {
    const answer = await Promise.race([terminal.question(`${question} [y/N] `), closed]);
    return /^y(?:es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}
