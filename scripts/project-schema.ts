/** Writes `docs/reference/cocore.schema.json`: the JSON Schema of `cocore.json`, for completion in editors. */
import { writeFileSync } from 'node:fs';
import { ProjectFile } from '@cocore/protocol';
import { z } from 'zod';

/** The document, from the schema that the command validates with. */
export function projectSchema(): string {
  const schema = z.toJSONSchema(ProjectFile, { io: 'output' });
  return `${JSON.stringify({ ...schema, title: 'cocore.json' }, null, 2)}\n`;
}

if (import.meta.main) {
  writeFileSync(new URL('../docs/reference/cocore.schema.json', import.meta.url), projectSchema());
}
