import { Command } from 'commander';
import { inForeground } from '../daemons.ts';

interface Options {
  readonly dataDir?: string;
  readonly databaseUrl?: string;
  readonly json?: true;
}

export function migrateStoreCommand(): Command {
  return new Command('migrate-store')
    .description('copy what a server that is stopped keeps in its data directory into an empty PostgreSQL database')
    .option('--data-dir <directory>', 'where it keeps its data (required)')
    .option('--database-url <postgres://…>', 'the database, also COCORE_DATABASE_URL (required)')
    .option('--json', 'print how many rows each table has, and nothing of how far it is')
    .action(async ({ dataDir, databaseUrl, json }: Options) => {
      const args = [
        ...(dataDir === undefined ? [] : ['--data-dir', dataDir]),
        ...(databaseUrl === undefined ? [] : ['--database-url', databaseUrl]),
        ...(json === undefined ? [] : ['--json']),
      ];
      process.exitCode = await inForeground('control', ['migrate-store', ...args], process.env);
    });
}
