import { Command } from 'commander';
import { DevStack } from '../dev-stack.ts';
import { dataDir } from '../paths.ts';
import { wholeNumber } from '../units.ts';

interface Options {
  port?: number;
  dataDir?: string;
  isolation: string;
  cpus?: string;
  memory?: string;
  disk?: string;
  verbose?: true;
}

export function devCommand(): Command {
  return new Command('dev')
    .description('run a control server and a worker here, until Ctrl-C')
    .option('--port <port>', 'where the server listens; 7733, or a free one when that is taken', wholeNumber)
    .option('--data-dir <directory>', 'where both keep their data')
    .option('--isolation <driver>', 'auto, qemu or fake', 'auto')
    .option('--cpus <n>', 'how many processors are leased')
    .option('--memory <MiB>', 'how much memory is leased')
    .option('--disk <MiB>', 'how much disk is leased')
    .option('--verbose', 'show what the daemons log')
    .action(async (options: Options) => {
      const stop = Promise.withResolvers<void>();
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.resolve());
      const lease = (['cpus', 'memory', 'disk'] as const).flatMap((name) =>
        options[name] === undefined ? [] : [`--${name}`, options[name]],
      );
      await using stack = await DevStack.start({
        env: process.env,
        port: options.port,
        dataDir: options.dataDir ?? dataDir(process.env),
        workerArgs: ['--isolation', options.isolation, ...lease],
        logLevel: process.env['COCORE_LOG_LEVEL'] ?? (options.verbose === true ? 'info' : 'error'),
        stopped: stop.promise,
      });
      if (stack === null) return;
      process.stdout.write(`ready ${stack.url}\n`);
      await Promise.race([stop.promise, stack.broken]);
    });
}
