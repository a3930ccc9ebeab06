import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CocoreClient } from '@cocore/client';
import type { ExecutionRecord } from '@cocore/protocol';
import { sayWhyItWaits } from '../src/waiting.ts';

type Answer = Pick<ExecutionRecord, 'state' | 'phase' | 'waiting'> | Error;
type Executions = Pick<CocoreClient['executions'], 'get'>;

/** Answers in order; `asked` resolves once the last answer was taken. */
function scripted(answers: Answer[]) {
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  const said: string[] = [];
  const get = async () => {
    const answer = answers.shift();
    if (answer === undefined) throw new Error('asked once more than needed');
    if (answers.length === 0) setImmediate(resolve);
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const executions = { get } as unknown as Executions;
  const say = (line: string) => said.push(line);
  return { asked, said, watch: () => sayWhyItWaits({ executions }, 'ex_1', say, 1) };
}

const OPEN = { state: 'open', phase: null, waiting: null } as const;
const RUNNING = { state: 'running', phase: 'executing', waiting: null } as const;
const waits = (code: 'isolation' | 'cap', message: string, position: number | null) =>
  ({ ...OPEN, waiting: { code, message, position } }) as const;

test('an execution that nothing takes, the reason is said once, and another reason too, also when asking failed before', async () => {
  const first = waits('isolation', 'there is: emulated (1)\u001b[2J', 3);
  const answers = [OPEN, new Error('gone'), first, { ...first, waiting: { ...first.waiting, position: 2 } }];
  const { asked, said, watch } = scripted([...answers, waits('cap', 'one at a time', null), RUNNING]);
  using _watch = watch();
  await asked;
  assert.deepEqual(said, [
    'cocore: it waits: there is: emulated (1)\ufffd[2J (number 3 of its project’s queue)\n',
    'cocore: it waits: one at a time\n',
  ]);
});

test('an execution that a worker has, nothing is said', async () => {
  const { asked, said, watch } = scripted([OPEN, { ...RUNNING, phase: 'preparing' }, RUNNING]);
  using _watch = watch();
  await asked;
  assert.deepEqual(said, []);
});
