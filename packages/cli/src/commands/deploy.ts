import { readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import {
  CocoreError,
  CPU_SHAPES,
  DEFAULT_CPUS,
  DEFAULT_MEMORY_MIB,
  type FunctionDeployInput,
  IsolationClass,
  MEMORY_SHAPES_MIB,
} from '@cocore/protocol';
import { Command, Option } from 'commander';
import type { DeployOptions } from '@cocore/client';
import { connect } from '../context.ts';
import { DeployProgressPrinter } from '../deploy-progress.ts';
import { nameOfImage, registryAuth } from '../images/registry-auth.ts';
import { plain, printJson } from '../print.ts';
import { durationMs, environment, sizeBytes, wholeNumber } from '../units.ts';

interface Options {
  name?: string;
  image?: string;
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

/** What is deployed: the part of the request that says where the code comes from, and a name for it. */
type Source = Pick<FunctionDeployInput, 'file' | 'archive' | 'image' | 'runtime' | 'handler'> & {
  readonly name: string;
};

function sourceOf(words: readonly string[], options: Options): Source {
  if (options.image !== undefined) return imageSource(options.image, words);
  const [path, ...rest] = words;
  if (path === undefined) throw new CocoreError('usage', 'name a file, or an image with --image');
  if (rest.length > 0) throw new CocoreError('usage', `${rest[0]} is one word too many; only an image takes a command`);
  return fileSource(path, options);
}

function fileSource(path: string, options: Options): Source {
  const content = read(path);
  const runtime = options.runtime ?? guessRuntime(path, content);
  if (runtime === undefined) throw new CocoreError('runtime_unknown', `what runs ${path} cannot be told from it`);
  const file = { name: basename(path), contentBase64: content.toString('base64') };
  return { name: basename(path).replace(/\.[^.]*$/, ''), file, runtime };
}

function imageSource(reference: string, command: readonly string[]): Source {
  const auth = registryAuth(reference, process.env);
  const image = {
    reference,
    ...(auth === undefined ? {} : { auth }),
    ...(command.length === 0 ? {} : { command: [...command] }),
  };
  return { name: nameOfImage(reference), image };
}

export function deployCommand(): Command {
  return new Command('deploy')
    .description('make a function of a file or a container image, or the next version of one')
    .argument('[words...]', 'a file; or, after --, the command of an image')
    .option('--image <reference>', 'an image of any registry, such as python:3.12 or ghcr.io/owner/name@sha256:…')
    .option('--name <name>', 'what it is called; the name of the file or the image if not given')
    .option('--runtime <runtime>', 'what runs the file; guessed from it if not given')
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
    .action(async (words: string[], options: Options) => {
      const { name, ...source } = sourceOf(words, options);
      const { memory, cpus, timeout, outputLimit, isolation } = options;
      const client = connect(process.env);
      const printer = new DeployProgressPrinter(process.stderr);
      const given = {
        name: options.name ?? name,
        ...source,
        env: options.env ?? {},
        ...(memory === undefined ? {} : { memoryMiB: memory }),
        ...(cpus === undefined ? {} : { cpus }),
        ...(timeout === undefined ? {} : { timeoutMs: timeout }),
        ...(outputLimit === undefined ? {} : { outputLimitBytes: outputLimit }),
        ...(isolation === undefined ? {} : { isolation }),
      };
      const onEvent: DeployOptions['onEvent'] = (event) =>
        event.event === 'progress' ? printer.progress(event.data) : printer.output(event.data);
      const record = await client.functions.deploy(given, { onEvent }).finally(() => printer.end());
      if (options.json === true) printJson(record);
      else process.stdout.write(`${plain(record.name)} version ${record.version} (${record.id})\n`);
    });
}
