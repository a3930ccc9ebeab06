import { type AssignedTask } from '../store/store.ts';
import { PREPARE_TIMEOUT_MS, SCRATCH_MIB, type TaskSpec } from '@cocore/protocol';

const INTERPRETER = { bash: '/bin/bash', python: '/usr/bin/python3' } as const;
const WORK_DIRECTORY = '/work';

const BASE_ENV = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
  HOME: WORK_DIRECTORY,
};
const RUNTIME_ENV = { bash: {}, python: { PYTHONUNBUFFERED: '1' } } as const;

/** What a worker is told to run. The execution's own variables win over the function's; CoCore's names win over both. */
export function taskSpec(task: AssignedTask): TaskSpec {
  const { stdin } = task;
  return {
    argv: [INTERPRETER[task.runtime], `/function/${task.fileName}`, ...task.args],
    env: {
      ...BASE_ENV,
      ...RUNTIME_ENV[task.runtime],
      ...task.functionEnv,
      ...task.env,
      COCORE_EXECUTION_ID: task.executionId,
      COCORE_FUNCTION_NAME: task.functionName,
    },
    cwd: WORK_DIRECTORY,
    image: task.image,
    code: task.code,
    stdin: stdin === null || 'digest' in stdin ? stdin : { base64: Buffer.from(stdin.inline).toString('base64') },
    memoryMiB: task.memoryMiB,
    cpus: task.cpus,
    scratchMiB: SCRATCH_MIB,
    prepareTimeoutMs: PREPARE_TIMEOUT_MS,
    runTimeoutMs: task.timeoutMs,
    outputLimitBytes: task.outputLimitBytes,
    network: 'none',
  };
}
