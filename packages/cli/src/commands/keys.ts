import type { KeyRole } from '@cocore/protocol';
import { Command, Option } from 'commander';
import { connect } from '../context.ts';
import { ago, plain, printJson, printTable } from '../print.ts';
import { durationMs } from '../units.ts';

function joinTokenCommand(): Command {
  return new Command('join-token')
    .description('make a token that lets one worker join (operators)')
    .option('--ttl <duration>', 'how long it is good, such as 1h', durationMs)
    .option('--json', 'print the record')
    .action(async (options: { ttl?: number; json?: true }) => {
      const input = options.ttl === undefined ? {} : { ttlMs: options.ttl };
      const record = await connect(process.env).joinTokens.create(input);
      if (options.json === true) printJson(record);
      else process.stdout.write(`${record.token}\n`);
    });
}

function keysCommand(): Command {
  const keys = new Command('keys').description('keys of this project (operators)');
  keys
    .command('create')
    .description('make a key; its secret is shown once')
    .option('--project <name>', 'for this project, which is made when there is none')
    .addOption(new Option('--role <role>').choices(['developer', 'operator']).default('developer'))
    .option('--json', 'print the record')
    .action(async (options: { project?: string; role: KeyRole; json?: true }) => {
      const { json, ...input } = options;
      const created = await connect(process.env).keys.create(input);
      if (json === true) printJson(created);
      else process.stdout.write(`${created.secret}\n`);
    });
  keys
    .command('list')
    .description('list the keys of this project')
    .option('--json', 'print the records')
    .action(async (options: { json?: true }) => {
      const list = await connect(process.env).keys.list();
      if (options.json === true) return printJson({ keys: list });
      printTable(
        ['ID', 'ROLE', 'CREATED'],
        list.map((key) => [key.id, key.role, ago(key.createdAt)]),
      );
    });
  keys
    .command('revoke')
    .description('make a key worthless at once')
    .argument('<id>')
    .action(async (id: string) => {
      await connect(process.env).keys.revoke(id);
      process.stdout.write(`${plain(id)} is revoked\n`);
    });
  return keys;
}

export const keyCommands = (): Command[] => [joinTokenCommand(), keysCommand()];
