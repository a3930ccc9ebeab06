import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

const Credentials = z.object({ url: z.string(), apiKey: z.string() });
export type Credentials = z.infer<typeof Credentials>;

/** Keys that this user's command finds by itself: a file for each server, readable by its owner alone. */
export class CredentialsStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  write(credentials: Credentials): void {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const path = this.#path(credentials.url);
    rmSync(path, { force: true });
    writeFileSync(path, `${JSON.stringify(credentials)}\n`, { mode: 0o600, flag: 'wx' });
  }

  remove(url: string): void {
    rmSync(this.#path(url), { force: true });
  }

  find(url: string): Credentials | undefined {
    return this.all().find((credentials) => credentials.url === url);
  }

  all(): Credentials[] {
    let names: string[];
    try {
      names = readdirSync(this.#directory);
    } catch {
      return [];
    }
    return names.flatMap((name) => {
      try {
        return [Credentials.parse(JSON.parse(readFileSync(join(this.#directory, name), 'utf8')))];
      } catch {
        return [];
      }
    });
  }

  #path(url: string): string {
    return join(this.#directory, `${encodeURIComponent(url)}.json`);
  }
}
