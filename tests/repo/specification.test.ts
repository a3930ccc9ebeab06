import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';

const root = new URL('../../', import.meta.url);
const page = readFileSync(new URL('docs/specification.md', root), 'utf8');

test('every row of the specification, names a test that exists', () => {
  const rows = page.split('\n').filter((line) => line.startsWith('| ') && !/^\| (?:---|promise)/.test(line));
  assert.ok(rows.length > 20);
  for (const row of rows) {
    const cells = row.split('|').map((cell) => cell.trim());
    const files = [...cells.at(-2)!.matchAll(/`([^`]+)`/g)].map((match) => match[1]!);
    assert.ok(files.length > 0, `no test in: ${row}`);
    for (const file of files) assert.ok(existsSync(new URL(file, root)), `${file} in: ${row}`);
  }
});

test('links between documents, lead to files', () => {
  for (const document of ['README.md', 'CONTRIBUTING.md', 'docs/design.md', 'docs/operations.md']) {
    const text = readFileSync(new URL(document, root), 'utf8');
    for (const [, target] of text.matchAll(/\]\(([^)#:]+)\)/g)) {
      assert.ok(existsSync(new URL(target!, new URL(document, root))), `${target} in ${document}`);
    }
  }
});
