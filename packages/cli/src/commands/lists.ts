import { orBetter } from '@cocore/protocol';
import { Command } from 'commander';
import { connect } from '../context.ts';
import { ago, printJson, printTable } from '../print.ts';

function functionsCommand(): Command {
  return new Command('functions')
    .description('list functions')
    .option('--json', 'print the records')
    .action(async (options: { json?: true }) => {
      const functions = await connect(process.env).functions.list();
      if (options.json === true) return printJson({ functions });
      const rows = functions.map((fn) => [
        fn.name,
        String(fn.version),
        fn.runtime ?? 'image',
        `${fn.memoryMiB} MiB, ${fn.cpus} CPU`,
        orBetter(fn.isolation),
        ago(fn.deployedAt),
      ]);
      printTable(['NAME', 'VERSION', 'RUNTIME', 'SHAPE', 'ISOLATION', 'DEPLOYED'], rows);
    });
}

function workersCommand(): Command {
  return new Command('workers')
    .description('list workers')
    .option('--json', 'print the records')
    .action(async (options: { json?: true }) => {
      const workers = await connect(process.env).workers.list();
      if (options.json === true) return printJson({ workers });
      const rows = workers.map((worker) => [
        worker.id,
        worker.name,
        worker.state,
        `${worker.driver} (${worker.isolation})`,
        `${worker.usedCpus}/${worker.cpus}`,
        `${worker.usedMemoryMiB}/${worker.memoryMiB} MiB`,
        String(worker.attempts),
      ]);
      printTable(['ID', 'NAME', 'STATE', 'ISOLATION', 'CPUS', 'MEMORY', 'RUNNING'], rows);
    });
}

export const listCommands = (): Command[] => [functionsCommand(), workersCommand()];
