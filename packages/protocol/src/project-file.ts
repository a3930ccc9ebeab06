import { z } from 'zod';
import { CodePath, Concurrency, Environment, HandlerName, RuntimeName } from './api.ts';
import { RetryPolicy } from './delivery.ts';
import { FunctionName } from './ids.ts';
import { IsolationClass } from './isolation.ts';
import * as limits from './limits.ts';
import { NetworkInput } from './network.ts';

/** The name of the file in a directory that says how the directory is deployed. */
export const PROJECT_FILE = 'cocore.json';

/** `cocore.json`. What the command is told wins over it. The descriptions are what an editor shows. */
export const ProjectFile = z
  .strictObject({
    $schema: z.string().optional(),
    name: FunctionName.optional().describe('The function’s name; that of the directory if not given.'),
    runtime: RuntimeName.optional().describe('What runs the code; told from the entry if not given.'),
    entry: CodePath.optional().describe('The file that is run; found by itself where there is one candidate.'),
    handler: HandlerName.optional().describe('The name of the handler; without it the entry is a program.'),
    memoryMiB: z
      .literal([...limits.MEMORY_SHAPES_MIB])
      .optional()
      .describe(`Memory in MiB; ${limits.DEFAULT_MEMORY_MIB} if not given.`),
    cpus: z
      .literal([...limits.CPU_SHAPES])
      .optional()
      .describe(`Processors; ${limits.DEFAULT_CPUS} if not given.`),
    timeoutMs: z
      .int()
      .min(limits.MIN_RUN_TIMEOUT_MS)
      .max(limits.MAX_RUN_TIMEOUT_MS)
      .optional()
      .describe(`How long it may run, in milliseconds; ${limits.DEFAULT_RUN_TIMEOUT_MS} if not given.`),
    outputLimitBytes: z
      .int()
      .min(1)
      .max(limits.MAX_OUTPUT_LIMIT_BYTES)
      .optional()
      .describe(`How much output is kept, in bytes; ${limits.DEFAULT_OUTPUT_LIMIT_BYTES} if not given.`),
    env: Environment.optional().describe('Variables of its environment.'),
    isolation: IsolationClass.optional().describe(
      'The weakest isolation class that it may run in; the server’s default if not given.',
    ),
    retries: RetryPolicy.optional().describe('What is done again when an execution fails; nothing if not given.'),
    concurrency: Concurrency.optional().describe('How many executions may run at once; any number if not given.'),
    network: NetworkInput.optional().describe('What it may reach over a network; nothing if not given.'),
    idempotent: z
      .boolean()
      .optional()
      .describe('Whether running it twice does no harm, so that it may run again when its host was lost.'),
  })
  .describe('How CoCore deploys this directory.');
export type ProjectFile = z.infer<typeof ProjectFile>;
