import { Command, Option } from 'commander';
import { DEV_ISOLATION, type DevDriver, DevStack } from '../dev-stack.ts';
import { dataDir } from '../paths.ts';
import { port } from '../units.ts';

interface Options {
  port?: number;
  dataDir?: string;
  isolation: DevDriver;
  pool: 'auto' | 'off';
  egress: 'auto' | 'off';
  cpus?: string;
  memory?: string;
  disk?: string;
  runtimes?: string;
  verbose?: true;
}

export function devCommand(): Command {
  return new Command('dev')
    .description('run a control server and a worker here, until Ctrl-C')
    .option('--port <port>', 'where the server listens; 7733, or a free one when that is taken', port)
    .option('--data-dir <directory>', 'where both keep their data')
    .addOption(
      new Option('--isolation <driver>', 'what makes the sandboxes; auto takes the strongest that works here')
        .choices(Object.keys(DEV_ISOLATION))
        .default('auto'),
    )
    .addOption(
      new Option('--pool <mode>', 'whether sandboxes wait, ready, in memory that is leased and free')
        .choices(['auto', 'off'])
        .default('auto'),
    )
    .addOption(
      new Option('--egress <mode>', 'whether functions that ask for a network have one, through this host')
        .choices(['auto', 'off'])
        .default('auto'),
    )
    .option('--cpus <n>', 'how many processors are leased')
    .option('--memory <MiB>', 'how much memory is leased')
    .option('--disk <MiB>', 'how much disk is leased')
    .option('--runtimes <directory>', 'recipes of more runtimes, or of others for the ones that are built in')
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
        isolation: options.isolation,
        serverArgs: options.runtimes === undefined ? [] : ['--runtimes', options.runtimes],
        // All that was started here ends with this command, however it ends.
        workerArgs: [
          '--pool',
          options.pool,
          '--recover',
          'off',
          ...(options.egress === 'auto' ? ['--egress-auto'] : []),
          ...lease,
        ],
        logLevel: process.env['COCORE_LOG_LEVEL'] ?? (options.verbose === true ? 'info' : 'error'),
        stopped: stop.promise,
      });
      if (stack === null) return;
      process.stdout.write(`ready ${stack.url}\n`);
      await Promise.race([stop.promise, stack.broken]);
    });
}
