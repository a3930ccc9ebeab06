import { type AssignedTask } from '../store/store.ts';
import { ARTIFACTS_PATH, PREPARE_TIMEOUT_MS, RESULT_PATH, SCRATCH_MIB, type TaskSpec } from '@cocore/protocol';
import { signalNumber } from './stop-signal.ts';

/** What a worker is told to run. The execution's own variables win over the function's; CoCore's names win over both. */
export function taskSpec(task: AssignedTask): TaskSpec {
  const { process, stdin } = task;
  const stopSignal = process.stopSignal === null ? undefined : signalNumber(process.stopSignal);
  return {
    argv: [...process.argv, ...task.args],
    env: {
      ...process.env,
      ...task.functionEnv,
      ...task.env,
      COCORE_EXECUTION_ID: task.executionId,
      COCORE_FUNCTION_NAME: task.functionName,
      COCORE_FUNCTION_VERSION: String(task.functionVersion),
      COCORE_MEMORY_MIB: String(task.memoryMiB),
      COCORE_TIMEOUT_MS: String(task.timeoutMs),
      COCORE_RESULT: RESULT_PATH,
      COCORE_OUT: ARTIFACTS_PATH,
    },
    cwd: process.cwd,
    user: process.user,
    image: task.image,
    code: task.code,
    stdin: stdin === null || 'digest' in stdin ? stdin : { base64: Buffer.from(stdin.inline).toString('base64') },
    files: [...task.files],
    memoryMiB: task.memoryMiB,
    cpus: task.cpus,
    scratchMiB: SCRATCH_MIB,
    prepareTimeoutMs: PREPARE_TIMEOUT_MS,
    runTimeoutMs: task.timeoutMs,
    outputLimitBytes: task.outputLimitBytes,
    artifactsLimitBytes: task.artifactsLimitBytes,
    network: task.network,
    ...(stopSignal === undefined ? {} : { stopSignal }),
  };
}
