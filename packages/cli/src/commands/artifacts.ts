import { Command } from 'commander';
import { connect } from '../context.ts';
import { plain, printJson, printTable } from '../print.ts';
import { entriesOf, unpack } from '../unpack.ts';

interface Options {
  output?: string;
  force?: true;
  json?: true;
}

export function artifactsCommand(): Command {
  return new Command('artifacts')
    .description('list or unpack what an execution left in $COCORE_OUT')
    .argument('<id>')
    .option('--output <directory>', 'unpack into this directory')
    .option('--force', 'write over files that are there')
    .option('--json', 'print the list as JSON')
    .action(async (id: string, { output, force, json }: Options) => {
      const archive = await connect(process.env).executions.artifacts(id);
      if (output !== undefined) {
        const files = await unpack(archive, output, force === true);
        process.stdout.write(`${files} files in ${plain(output)}\n`);
        return;
      }
      const list = [];
      for await (const { content, ...entry } of entriesOf(archive)) {
        content.resume();
        list.push(entry);
      }
      if (json === true) return printJson(list);
      printTable(
        ['BYTES', 'PATH'],
        list.map(({ path, kind, bytes }) => [
          kind === 'directory' ? '–' : String(bytes),
          kind === 'directory' ? `${path}/` : path,
        ]),
      );
    });
}
