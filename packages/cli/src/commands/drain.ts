import { setTimeout as sleep } from 'node:timers/promises';
import type { CocoreClient } from '@cocore/client';
import { CocoreError, type WorkerRecord } from '@cocore/protocol';
import { Command } from 'commander';
import { connect } from '../context.ts';
import { plain, printJson } from '../print.ts';

const POLL_MS = 1_000;

export function drainCommand(): Command {
  return new Command('drain')
    .description('give a worker nothing more, and let it finish what it has (operators)')
    .argument('<id>')
    .option('--wait', 'until it has nothing')
    .option('--json', 'print the record')
    .action(async (id: string, options: { wait?: true; json?: true }) => {
      const client = connect(process.env);
      let worker = await client.workers.drain(id);
      while (options.wait === true && worker.drain?.state === 'draining') {
        await sleep(POLL_MS);
        worker = await find(client, id);
      }
      if (worker.drain === null) throw new CocoreError('usage', `${id} was given work again meanwhile`);
      print(worker, options.json);
    });
}

export function undrainCommand(): Command {
  return new Command('undrain')
    .description('give a worker work again (operators)')
    .argument('<id>')
    .option('--json', 'print the record')
    .action(async (id: string, options: { json?: true }) => {
      print(await connect(process.env).workers.undrain(id), options.json);
    });
}

async function find(client: CocoreClient, id: string): Promise<WorkerRecord> {
  const worker = (await client.workers.list()).find((one) => one.id === id);
  if (worker === undefined) throw new CocoreError('worker_not_found', `there is no worker ${id}`);
  return worker;
}

function print(worker: WorkerRecord, json: true | undefined): void {
  if (json === true) return printJson(worker);
  const { id, name, attempts, drain } = worker;
  const state = drain === null ? 'takes work' : `is ${drain.state}`;
  const rest = attempts === 0 ? '' : `; it has ${attempts} execution${attempts === 1 ? '' : 's'}`;
  process.stdout.write(`${id} (${plain(name)}) ${state}${rest}\n`);
}
