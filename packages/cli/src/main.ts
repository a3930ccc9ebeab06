import { createRequire } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { CocoreError } from '@cocore/protocol';
import { Command, CommanderError } from 'commander';
import { artifactsCommand } from './commands/artifacts.ts';
import { cancelCommand } from './commands/cancel.ts';
import { daemonCommands } from './commands/daemons.ts';
import { deployCommand } from './commands/deploy.ts';
import { devCommand } from './commands/dev.ts';
import { doctorCommand } from './commands/doctor.ts';
import { executionCommands } from './commands/executions.ts';
import { keyCommands } from './commands/keys.ts';
import { listCommands } from './commands/lists.ts';
import { runCommand } from './commands/run.ts';
import { plain } from './print.ts';

// Without it, buffers outside the heap have all of it collected for each few megabytes that are sent or received, which costs more than all else about them.
setFlagsFromString('--external-memory-accounted-in-global-limit');

const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

const program = new Command('cocore')
  .description('Runs functions on other people’s spare computers.')
  .version(version, '--version', 'print the version')
  .enablePositionalOptions()
  .exitOverride()
  .configureOutput({ writeErr: () => undefined });

const commands = [
  devCommand(),
  deployCommand(),
  runCommand(),
  ...executionCommands(),
  cancelCommand(),
  artifactsCommand(),
  ...listCommands(),
  ...keyCommands(),
  ...daemonCommands(),
  doctorCommand(),
];
for (const command of commands) {
  command.exitOverride().configureOutput({ writeErr: () => undefined });
  for (const inner of command.commands) inner.exitOverride().configureOutput({ writeErr: () => undefined });
  program.addCommand(command);
}

// A reader that has seen enough (`cocore ps | head -1`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

function asCocoreError(error: unknown): CocoreError {
  if (error instanceof CocoreError) return error;
  if (error instanceof CommanderError) return new CocoreError('usage', error.message.replace(/^error: /, ''));
  return new CocoreError('internal', error instanceof Error ? error.message : String(error), { cause: error });
}

try {
  await program.parseAsync();
} catch (error) {
  const isHelp = error instanceof CommanderError && error.exitCode === 0;
  if (!isHelp) {
    const known = asCocoreError(error);
    const isBareCommand = error instanceof CommanderError && error.code === 'commander.help';
    const message = isBareCommand ? 'a command is missing' : known.message;
    process.stderr.write(`error ${known.code}: ${plain(message)}\n${known.remedy}\n`);
    process.exitCode = 2;
  }
}
