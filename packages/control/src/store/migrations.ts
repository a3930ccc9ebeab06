import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Migration {
  readonly number: number;
  readonly name: string;
  readonly sql: string;
  readonly sha256: string;
}

/** @throws when the files are not numbered 1, 2, 3 … */
export function readMigrationsOf(directory: string): Migration[] {
  return readdirSync(directory)
    .sort()
    .map((name, index) => {
      if (!/^\d{4}-[a-z0-9-]+\.sql$/.test(name) || Number(name.slice(0, 4)) !== index + 1) {
        throw new Error(`the migration ${name} is not number ${index + 1}`);
      }
      const sql = readFileSync(join(directory, name), 'utf8');
      return { number: index + 1, name, sql, sha256: createHash('sha256').update(sql).digest('hex') };
    });
}
