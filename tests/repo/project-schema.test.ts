import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { projectSchema } from '../../scripts/project-schema.ts';

test('the JSON Schema of cocore.json, is what node scripts/project-schema.ts writes now', () => {
  const file = new URL('../../docs/reference/cocore.schema.json', import.meta.url);
  assert.equal(readFileSync(file, 'utf8'), projectSchema());
});
