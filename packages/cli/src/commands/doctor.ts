import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
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
  remedy: z.string().nullable().optional(),
});
type HostCheck = z.infer<typeof HostCheck>;

/** What the worker's daemon says of this host; the command itself imports nothing of it. */
async function probe(env: NodeJS.ProcessEnv): Promise<HostCheck[]> {
  const main = fileURLToPath(import.meta.resolve('@cocore/worker/main'));
  const { stdout } = await promisify(execFile)(process.execPath, [main, '--probe', '--artifacts', artifactsFile(env)], {
    env,
  });
  return z.array(HostCheck).parse(JSON.parse(stdout));
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('say what this host can do, and why not more')
    .option('--json', 'print the checks')
    .action(async (options: { json?: true }) => {
      const path = artifactsFile(process.env);
      const checks: HostCheck[] = [
        { name: 'node', ok: true, reason: `Node ${process.versions.node}` },
        ...(await probe(process.env)),
      ];
      if (!existsSync(path) && !checks.some(({ name }) => name === 'artifacts')) {
        checks.push({
          name: 'artifacts',
          ok: false,
          reason: `${path} does not exist`,
          remedy: 'Run npm run setup in the checkout.',
        });
      }
      if (options.json === true) return printJson({ checks });
      for (const { name, ok, reason, remedy } of checks) {
        process.stdout.write(`${ok ? 'ok ' : 'NO '} ${plain(name).padEnd(16)} ${plain(reason)}\n`);
        if (!ok && remedy != null) process.stdout.write(`${' '.repeat(20)} ${plain(remedy)}\n`);
      }
    });
}
