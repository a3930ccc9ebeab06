import type { Logger } from 'pino';
import type { Store } from '../store.ts';
import { Connection } from './connection.ts';
import { placeOf } from './database-url.ts';
import { startError } from './errors.ts';
import { migrate, serve, share } from './migrate.ts';
import { Readers } from './readers.ts';
import { control } from './running.ts';
import { Writer } from './writer.ts';

/** Connections that read, beside the one that writes. */
export const DEFAULT_READERS = 4;
/** The marks of stores that wrote nothing for this long, and are open no more. */
const MARK_KEPT_MS = 7 * 86_400_000;

export interface PostgresStoreOptions {
  /** `postgres://USER:PASSWORD@HOST:PORT/DATABASE?…` */
  readonly url: string;
  /** Milliseconds since the Unix epoch. */
  readonly now?: () => number;
  readonly readers?: number;
  readonly log?: Logger;
}

/**
 * The store in a PostgreSQL database: one connection writes, by groups; some read what is committed. A connection that is lost is made anew when it is needed.
 *
 * @throws CocoreError `database_unavailable`, `database_unfit`
 */
export async function openPostgresStore(options: PostgresStoreOptions): Promise<Store> {
  const { url, now = Date.now, readers: size = DEFAULT_READERS, log } = options;
  const connect = () => Connection.open(url);
  const connectWriter = async () => {
    const connection = await connect();
    await serve(connection);
    await share(connection);
    return connection;
  };
  const writing = await firstConnection(url, now, log);
  const writer = new Writer(writing, connectWriter, now);
  const readers = new Readers(connect, size, now);
  return {
    ...writer.verbs,
    ...readers.verbs,
    isWritable: () => writer.isWritable(),
    close: async () => {
      await writer.close();
      await readers.close();
    },
  };
}

async function firstConnection(url: string, now: () => number, log: Logger | undefined): Promise<Connection> {
  let connection: Connection | null = null;
  try {
    connection = await Connection.open(url);
    const { unsafe } = await connection.check();
    for (const setting of unsafe) {
      log?.warn(
        { setting },
        `the database has ${setting}=off: it may lose what was acknowledged when its machine fails`,
      );
    }
    await share(connection);
    await migrate(connection, now());
    await serve(connection);
    await connection.round([control('DELETE FROM writers WHERE at < ?', now() - MARK_KEPT_MS).asked]);
    return connection;
  } catch (error) {
    connection?.drop();
    throw startError(error, placeOf(url));
  }
}
