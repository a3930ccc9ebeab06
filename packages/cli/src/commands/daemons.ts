import { Command } from 'commander';
import { runDaemon } from '../daemons.ts';
import { drainCommand, undrainCommand } from './drain.ts';
import { migrateStoreCommand } from './migrate-store.ts';

// The daemons read their own arguments; a test holds these lists against what they take.
const SERVER_OPTIONS: readonly (readonly [string, string])[] = [
  ['--data-dir <directory>', 'where it keeps its data (required)'],
  ['--host <address>', 'where it listens; 127.0.0.1 if not given'],
  ['--port <port>', 'where it listens; a free one if not given'],
  ['--allow-host <host>', 'another name that clients may call it by; may be given again'],
  ['--tls-self', 'make a certificate, which join tokens carry the fingerprint of'],
  ['--tls-cert <file>', 'the certificate, in PEM'],
  ['--tls-key <file>', 'its key, in PEM'],
  ['--insecure', 'listen off loopback without TLS'],
  [
    '--default-isolation <class>',
    'what functions require that name no class: microvm, gvisor (if not given), emulated, container',
  ],
  ['--restored', 'the data directory came out of a backup: workers give up what it does not know'],
  ['--keep-executions <duration>', 'how long an execution is kept whole after its end; 30d if not given'],
  ['--keep-output <size>', 'how much output of one project is kept, such as 500MiB; 10GiB if not given'],
  ['--idempotency-ttl <duration>', 'how long idempotency keys hold, such as 90s, 30m, 24h or 2d; 24h if not given'],
  [
    '--worker-trust <full|earned>',
    'what new workers may have at once: what they have room for (full, if not given), or little at first',
  ],
  [
    '--database-url <postgres://…>',
    'a PostgreSQL database for records and output, also COCORE_DATABASE_URL; the data directory if not given',
  ],
  ['--blob-store <s3://bucket/prefix>', 'an S3-compatible store for blobs; the data directory if not given'],
  [
    '--output-store <s3://bucket/prefix>',
    'an S3-compatible store that large output goes to once its execution has ended; it stays where it is if not given',
  ],
  ['--runtimes <directory>', 'recipes of more runtimes, or of others for the ones that are built in'],
  ['--loopback-registries', 'take images from registries on this host’s loopback, in plain HTTP'],
  ['--artifacts <file>', 'what the set-up built; found by itself if not given'],
];

const WORKER_OPTIONS: readonly (readonly [string, string])[] = [
  ['--server <url>', 'the control server (required)'],
  ['--data-dir <directory>', 'where it keeps its data (required)'],
  ['--join-token-file <file>', 'a token of cocore join-token, for the first start; - is standard input'],
  ['--name <name>', 'what it is called; the name of this host if not given'],
  ['--isolation <driver>', 'auto, firecracker, qemu, gvisor, crun or fake; cocore doctor says which can run here'],
  ['--at-least <class>', 'the weakest isolation class that auto may choose; gvisor if not given'],
  ['--cpus <n>', 'how many processors are leased; half of what is free if not given'],
  ['--memory <MiB>', 'how much memory is leased; half of what is free if not given'],
  ['--disk <MiB>', 'how much disk is leased; half of what is free if not given'],
  ['--pool <auto|off>', 'whether sandboxes may wait, ready, in memory that is leased and free'],
  ['--recover <auto|off>', 'whether running machines may outlive a worker that dies, for the next to go on with'],
  ['--egress', 'lets functions that ask for one have a network, through this host; none if not given'],
  ['--egress-auto', 'the same where this host can; where it cannot, the worker goes on without'],
  ['--egress-proxy <url>', 'where all that they connect to goes through, such as http://proxy.example:3128'],
  ['--ca-file <file>', 'certificates to trust beside those of the system, in PEM'],
  ['--insecure', 'speak to a server off loopback without TLS'],
  ['--artifacts <file>', 'what the set-up built; found by itself if not given'],
];

/** One daemon in the foreground; what is given goes through to it as it is. */
function daemonCommand(
  name: 'server' | 'worker',
  description: string,
  usage: string,
  options: readonly (readonly [string, string])[],
): Command {
  const width = Math.max(...options.map(([flag]) => flag.length));
  const lines = options.map(([flag, what]) => `  ${flag.padEnd(width)}  ${what}`);
  return new Command(name)
    .description(description)
    .usage(usage)
    .addHelpText('after', `\nOptions of the ${name}:\n${lines.join('\n')}`)
    .allowUnknownOption()
    .allowExcessArguments()
    .argument('[flags...]')
    .action(async (flags: string[]) => {
      process.exitCode = await runDaemon(name === 'server' ? 'control' : 'worker', flags, process.env);
    });
}

export const daemonCommands = (): Command[] => [
  daemonCommand('server', 'run a control server', '--data-dir <directory> [options]', SERVER_OPTIONS).addCommand(
    migrateStoreCommand(),
  ),
  daemonCommand(
    'worker',
    'run a worker on this host',
    '--server <url> --data-dir <directory> [options]',
    WORKER_OPTIONS,
  )
    .addCommand(drainCommand())
    .addCommand(undrainCommand()),
];
