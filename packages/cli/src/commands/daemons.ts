import { Command } from 'commander';
import { runDaemon } from '../daemons.ts';

/** The two daemons in the foreground; what is given goes through to them as it is. */
export function daemonCommands(): Command[] {
  const server = new Command('server')
    .description('run a control server')
    .usage(
      '--data-dir D [--host H] [--port P] [--allow-host H]… [--tls-cert F --tls-key F | --tls-self] [--insecure] [--default-isolation microvm|gvisor|emulated|container]',
    );
  const worker = new Command('worker')
    .description('run a worker on this host')
    .usage(
      '--server URL --data-dir D [--join-token-file F|-] [--isolation auto|firecracker|qemu|gvisor|crun|fake] [--at-least microvm|gvisor|emulated|container] [--pool auto|off] [--cpus N] [--memory MiB] [--disk MiB] [--name N] [--ca-file F] [--insecure]',
    );
  for (const [command, name] of [
    [server, 'control'],
    [worker, 'worker'],
  ] as const) {
    command
      .allowUnknownOption()
      .allowExcessArguments()
      .argument('[flags...]')
      .action(async (flags: string[]) => {
        process.exitCode = await runDaemon(name, flags, process.env);
      });
  }
  return [server, worker];
}
