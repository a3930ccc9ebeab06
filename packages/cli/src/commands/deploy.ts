import { readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import {
  CocoreError,
  CPU_SHAPES,
  DEFAULT_CPUS,
  DEFAULT_MEMORY_MIB,
  IsolationClass,
  MEMORY_SHAPES_MIB,
} from '@cocore/protocol';
import { Command, Option } from 'commander';
import { connect } from '../context.ts';
import { plain, printJson } from '../print.ts';
import { durationMs, environment, sizeBytes, wholeNumber } from '../units.ts';

interface Options {
  name: string;
  runtime?: string;
  memory?: number;
  cpus?: number;
  timeout?: number;
  outputLimit?: number;
  isolation?: IsolationClass;
  env?: Record<string, string>;
  json?: true;
}

/** What runs a file, by its extension, else by its first line. */
export function guessRuntime(path: string, content: Buffer): string | undefined {
  if (/\.(?:sh|bash)$/.test(path)) return 'bash';
  if (path.endsWith('.py')) return 'python';
  const [firstLine] = content.subarray(0, 200).toString('latin1').split('\n');
  const interpreter = /^#!\s*(?:\S*\/env\s+(?:-S\s+)?)?(?:\S*\/)?(\w+)/.exec(firstLine!)?.[1];
  if (interpreter === 'bash' || interpreter === 'sh') return 'bash';
  return interpreter !== undefined && /^python/.test(interpreter) ? 'python' : undefined;
}

function read(path: string): Buffer {
  try {
    // A device may have no end.
    if (statSync(path).isCharacterDevice()) throw new CocoreError('code_invalid', `${path} is not a regular file`);
    return readFileSync(path);
  } catch (cause) {
    if (cause instanceof CocoreError) throw cause;
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
}

export function deployCommand(): Command {
  return new Command('deploy')
    .description('make a function of a file, or the next version of one')
    .argument('<file>')
    .requiredOption('--name <name>', 'what it is called')
    .addOption(new Option('--runtime <runtime>', 'what runs it; guessed from the file').choices(['bash', 'python']))
    .option(
      '--memory <MiB>',
      `its memory: ${MEMORY_SHAPES_MIB.join(', ')}; ${DEFAULT_MEMORY_MIB} if not given`,
      wholeNumber,
    )
    .option('--cpus <n>', `its processors: ${CPU_SHAPES.join(', ')}; ${DEFAULT_CPUS} if not given`, wholeNumber)
    .option('--timeout <duration>', 'how long it may run, such as 30s; 60s if not given', durationMs)
    .option('--output-limit <size>', 'how much output is kept, such as 1MiB; 10MiB if not given', sizeBytes)
    .option('--env <NAME=value>', 'a variable of its environment; may be given again', environment)
    .addOption(
      new Option('--isolation <class>', 'the weakest class that it may run in; the default is the server’s').choices(
        IsolationClass.options,
      ),
    )
    .option('--json', 'print the record')
    .action(async (path: string, options: Options) => {
      const content = read(path);
      const runtime = options.runtime ?? guessRuntime(path, content);
      if (runtime === undefined) throw new CocoreError('runtime_unknown', `what runs ${path} cannot be told from it`);
      const { memory, cpus, timeout, outputLimit, isolation } = options;
      const record = await connect(process.env).functions.deploy({
        name: options.name,
        runtime,
        file: { name: basename(path), contentBase64: content.toString('base64') },
        env: options.env ?? {},
        ...(memory === undefined ? {} : { memoryMiB: memory }),
        ...(cpus === undefined ? {} : { cpus }),
        ...(timeout === undefined ? {} : { timeoutMs: timeout }),
        ...(outputLimit === undefined ? {} : { outputLimitBytes: outputLimit }),
        ...(isolation === undefined ? {} : { isolation }),
      });
      if (options.json === true) printJson(record);
      else process.stdout.write(`${plain(record.name)} version ${record.version} (${record.id})\n`);
    });
}
