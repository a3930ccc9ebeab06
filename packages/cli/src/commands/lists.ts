import { orBetter } from '@cocore/protocol';
import { Command } from 'commander';
import { connect } from '../context.ts';
import { ago, printJson, printTable } from '../print.ts';
import { workerLoad, workerState } from '../worker-state.ts';

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
        fn.network.mode === 'none' ? 'none' : fn.network.allow.join(' '),
        fn.maxConcurrent === null ? 'any' : String(fn.maxConcurrent),
        ago(fn.deployedAt),
      ]);
      printTable(['NAME', 'VERSION', 'RUNTIME', 'SHAPE', 'ISOLATION', 'NETWORK', 'AT ONCE', 'DEPLOYED'], rows);
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
        workerState(worker),
        `${worker.driver} (${worker.isolation})`,
        worker.egress ? 'egress' : 'none',
        `${worker.usedCpus}/${worker.cpus}`,
        `${worker.usedMemoryMiB}/${worker.memoryMiB} MiB`,
        workerLoad(worker),
      ]);
      printTable(['ID', 'NAME', 'STATE', 'ISOLATION', 'NETWORK', 'CPUS', 'MEMORY', 'RUNNING'], rows);
    });
}

export const listCommands = (): Command[] => [functionsCommand(), workersCommand()];
