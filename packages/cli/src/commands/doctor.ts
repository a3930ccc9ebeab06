import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Command } from 'commander';
import { z } from 'zod';
import { artifactsFile } from '../paths.ts';
import { plain, printJson } from '../print.ts';

const HostCheck = z.object({
  name: z.string(),
  ok: z.boolean(),
  reason: z.string(),
  remedy: z.string().nullable(),
});
type HostCheck = z.infer<typeof HostCheck>;

const HostReport = z.object({
  host: z.array(HostCheck),
  drivers: z.array(z.object({ driver: z.string(), isolation: z.string(), checks: z.array(HostCheck) })),
  network: z.array(HostCheck),
  advice: z.array(HostCheck),
});
type HostReport = z.infer<typeof HostReport>;

/** What the worker's daemon says of this host; the command itself imports nothing of it. */
async function probe(env: NodeJS.ProcessEnv): Promise<HostReport> {
  const main = fileURLToPath(import.meta.resolve('@cocore/worker/main'));
  const { stdout } = await promisify(execFile)(process.execPath, [main, '--probe', '--artifacts', artifactsFile(env)], {
    env,
  });
  return HostReport.parse(JSON.parse(stdout));
}

const isFit = (checks: readonly HostCheck[]): boolean => checks.every(({ ok }) => ok);

function show({ host, drivers, network, advice }: HostReport): void {
  process.stdout.write('This host\n');
  for (const check of host) showCheck(check);
  for (const { driver, isolation, checks } of drivers) {
    showPart(`${driver}, isolation ${isolation}: ${isFit(checks) ? 'can run here' : 'cannot run here'}`, checks);
  }
  showPart(`network of functions: ${isFit(network) ? 'can be given here' : 'cannot be given here'}`, network);
  process.stdout.write('\nAdvice for a host that runs strangers’ code\n');
  for (const check of advice) showCheck(check);
}

/** Where nothing is missing, what is there is of no interest. */
function showPart(title: string, checks: readonly HostCheck[]): void {
  process.stdout.write(`\n${title}\n`);
  if (!isFit(checks)) for (const check of checks) showCheck(check);
}

function showCheck({ name, ok, reason, remedy }: HostCheck): void {
  process.stdout.write(`  ${ok ? 'ok ' : 'NO '} ${plain(name).padEnd(20)} ${plain(reason)}\n`);
  if (!ok && remedy !== null) process.stdout.write(`${' '.repeat(27)}${plain(remedy)}\n`);
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('say what this host can do, and why not more')
    .option('--json', 'print the checks')
    .action(async (options: { json?: true }) => {
      const { host, ...rest } = await probe(process.env);
      const report = {
        host: [{ name: 'node', ok: true, reason: `Node ${process.versions.node}`, remedy: null }, ...host],
        ...rest,
      };
      if (options.json === true) printJson(report);
      else show(report);
    });
}
