import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { faultsOf, importFaults } from '../../scripts/imports.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

describe('import rules', () => {
  test('the repository, keeps them', () => assert.deepEqual(importFaults(root), []));

  test('what is chosen without Node, it is pure', () => {
    const manifest = readFileSync(join(root, 'packages/client/package.json'), 'utf8');
    const { imports } = JSON.parse(manifest) as { imports: Record<string, Record<string, string>> };
    for (const { node, default: other, ...more } of Object.values(imports)) {
      assert.deepEqual([dirname(node!), dirname(other!), more], ['./src/node', './src', {}]);
    }
  });

  const declared = new Set(['zod', '@cocore/protocol', '@cocore/worker', '@cocore/client']);
  const planted: [string, string, string, RegExp][] = [
    ['Node in the protocol', 'packages/protocol/src/x.ts', "import { join } from 'node:path';", /pure/],
    ['Node in the scheduler', 'packages/control/src/scheduler/x.ts', "import fs from 'node:fs';", /pure/],
    ['the store in the scheduler', 'packages/control/src/scheduler/x.ts', "import '../store/store.ts';", /pure/],
    ['worker in control', 'packages/control/src/x.ts', "import { a } from '@cocore/worker';", /may not import/],
    ['Node in the client', 'packages/client/src/x.ts', "import http from 'node:http';", /pure/],
    ['the client’s part for Node, by path', 'packages/client/src/x.ts', "import './node/transport.ts';", /pure/],
    ['a type of worker in control', 'packages/control/src/x.ts', "import type { A } from '@cocore/worker';", /may not/],
    ['client in worker', 'packages/worker/src/x.ts', "const c = await import('@cocore/client');", /may not import/],
    ['a neighbour by path', 'packages/worker/src/x.ts', "export * from '../../control/src/y.ts';", /reaches out/],
    ['an undeclared choice', 'packages/client/src/x.ts', "import { a } from '#elsewhere';", /does not declare/],
    ['an undeclared package', 'packages/cli/src/x.ts', "import {\n  a,\n} from 'left-pad';", /does not declare/],
  ];
  for (const [what, file, text, message] of planted) {
    test(`${what}, is found`, () => {
      assert.match(
        faultsOf(file, text, declared)
          .map((fault) => fault.message)
          .join('\n'),
        message,
      );
    });
  }
});
