import { DEFAULT_LIMITS } from '../../src/admission.ts';
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts';
import { BASH_FILE } from './version-fields.ts';

/** Makes executions without end and prints the id of each once the store has acknowledged it. Ends by being killed. */
const store = await openSqliteStore({ path: process.argv[2]! });
const projectId = await store.ensureProject('default');
const blob = { digest: `sha256:${'a'.repeat(64)}`, bytes: 1 };
await store.createFunctionVersion(
  {
    projectId,
    name: 'add',
    ...BASH_FILE,
    code: blob,
    image: blob,
    memoryMiB: 256,
    cpus: 1,
    timeoutMs: 1_000,
    outputLimitBytes: 1_000,
    env: {},
    isolation: 'container',
  },
  DEFAULT_LIMITS,
);
const execution = {
  projectId,
  function: 'add',
  args: [],
  env: {},
  stdin: null,
  files: [],
  timeoutMs: null,
  outputLimitBytes: null,
  idempotencyKey: null,
};
const writeForever = async () => {
  for (;;) {
    const [created] = await store.createExecutions([execution], DEFAULT_LIMITS);
    process.stdout.write(`${created!.executionId}\n`);
  }
};
await Promise.all([writeForever(), writeForever(), writeForever()]);
