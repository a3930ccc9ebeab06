import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ERRORS } from '@cocore/protocol';

const page = readFileSync(new URL('../../docs/reference/errors.md', import.meta.url), 'utf8');
const rows = [...page.matchAll(/^\| `([a-z_]+)` \| (\d+|–) \| (yes|no) \| (.+) \|$/gm)];

test('the page of error codes, has one row for each code, with its status, retry and remedy', () => {
  const documented = rows.map(([, code, status, retryable, remedy]) => [code, status, retryable, remedy]);
  const actual = Object.entries(ERRORS).map(([code, row]) => [
    code,
    row.status === 0 ? '–' : String(row.status),
    row.retryable ? 'yes' : 'no',
    row.remedy,
  ]);
  assert.deepEqual(documented, actual);
});
