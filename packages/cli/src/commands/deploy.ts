import {
  CocoreError,
  CPU_SHAPES,
  DEFAULT_CPUS,
  DEFAULT_MEMORY_MIB,
  type FunctionDeployInput,
  IsolationClass,
  MEMORY_SHAPES_MIB,
  type ProjectFile,
} from '@cocore/protocol';
import { Command, Option } from 'commander';
import type { CocoreClient, DeployOptions } from '@cocore/client';
import { connect } from '../context.ts';
import { DeployProgressPrinter } from '../deploy-progress.ts';
import { nameOfImage, registryAuth } from '../images/registry-auth.ts';
import { plain, printJson } from '../print.ts';
import { type RetryOptions, retriesOf, withRetries } from '../retries.ts';
import { sourceAt, type Source } from '../source/source.ts';
import { durationMs, environment, oneMore, sizeBytes, wholeNumber } from '../units.ts';

interface Options extends RetryOptions {
  name?: string;
  image?: string;
  runtime?: string;
  entry?: string;
  handler?: string;
  memory?: number;
  cpus?: number;
  timeout?: number;
  outputLimit?: number;
  isolation?: IsolationClass;
  concurrency?: number;
  allow?: string[];
  networkLimit?: number;
  idempotent?: true;
  env?: Record<string, string>;
  json?: true;
}

async function sourceOf(words: readonly string[], options: Options, client: () => CocoreClient): Promise<Source> {
  if (options.image !== undefined) {
    if (options.handler !== undefined) throw new CocoreError('usage', 'an image is run as a program, not as a handler');
    if (options.entry !== undefined) throw new CocoreError('usage', '--entry names a file of a directory');
    return { deploy: imageSource(options.image, words), project: {} };
  }
  const [path, ...rest] = words;
  if (path === undefined) throw new CocoreError('usage', 'name a file or a directory, or an image with --image');
  if (rest.length > 0) throw new CocoreError('usage', `${rest[0]} is one word too many; only an image takes a command`);
  return sourceAt(path, options, client);
}

function imageSource(reference: string, command: readonly string[]): Source['deploy'] {
  const auth = registryAuth(reference, process.env);
  const image = {
    reference,
    ...(auth === undefined ? {} : { auth }),
    ...(command.length === 0 ? {} : { command: [...command] }),
  };
  return { name: nameOfImage(reference), image };
}

type Defined<T> = { [Name in keyof T]?: Exclude<T[Name], undefined> };

/** What was given, by the command or else by the directory; the server fills in the rest. */
function settings(options: Options, project: ProjectFile) {
  const given = {
    name: options.name,
    memoryMiB: options.memory ?? project.memoryMiB,
    cpus: options.cpus ?? project.cpus,
    timeoutMs: options.timeout ?? project.timeoutMs,
    outputLimitBytes: options.outputLimit ?? project.outputLimitBytes,
    isolation: options.isolation ?? project.isolation,
    retries: options.retries === 0 ? undefined : (retriesOf(options) ?? project.retries),
    maxConcurrent: options.concurrency ?? project.concurrency,
    network: networkOf(options, project),
    idempotent: options.idempotent ?? project.idempotent,
    env: { ...project.env, ...options.env },
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Defined<typeof given>;
}

/** The command's list is instead of the directory's, not beside it. */
function networkOf({ allow, networkLimit }: Options, { network }: ProjectFile): FunctionDeployInput['network'] {
  const limit = networkLimit === undefined ? {} : { maxBytes: networkLimit };
  if (allow !== undefined) return { mode: 'egress', allow, ...limit };
  if (networkLimit === undefined) return network;
  if (network?.mode !== 'egress')
    throw new CocoreError('usage', '--network-limit is of a network: name with --allow what it reaches');
  return { ...network, ...limit };
}

export function deployCommand(): Command {
  const command = new Command('deploy')
    .description('make a function of a file, a directory or a container image, or the next version of one')
    .argument('[words...]', 'a file or a directory; or, after --, the command of an image')
    .option('--image <reference>', 'an image of any registry, such as python:3.12 or ghcr.io/owner/name@sha256:…')
    .option('--name <name>', 'what it is called; the name of the file, directory or image if not given')
    .option('--runtime <runtime>', 'what runs the file; told from it if not given')
    .option('--entry <file>', 'the file of the directory that is run; found by itself where there is one candidate')
    .option('--handler <name>', 'the handler that the file gives; without it the file is a program')
    .option(
      '--memory <MiB>',
      `its memory: ${MEMORY_SHAPES_MIB.join(', ')}; ${DEFAULT_MEMORY_MIB} if not given`,
      wholeNumber,
    )
    .option('--cpus <n>', `its processors: ${CPU_SHAPES.join(', ')}; ${DEFAULT_CPUS} if not given`, wholeNumber)
    .option('--timeout <duration>', 'how long it may run, such as 30s; 60s if not given', durationMs)
    .option('--output-limit <size>', 'how much output is kept, such as 1MiB; 10MiB if not given', sizeBytes)
    .option('--concurrency <n>', 'how many of its executions may run at once; any number if not given', wholeNumber)
    .option(
      '--allow <target>',
      'what it may reach: NAME, *.NAME, an IPv4 address or range, or *, each with :PORT or without; may be given again',
      oneMore,
    )
    .option('--network-limit <size>', 'what it may send and receive in one execution; 1GiB if not given', sizeBytes)
    .option(
      '--idempotent',
      'running it twice does no harm: it runs again although it had a network when its host was lost',
    )
    .option('--env <NAME=value>', 'a variable of its environment; may be given again', environment)
    .addOption(
      new Option('--isolation <class>', 'the weakest class that it may run in; the default is the server’s').choices(
        IsolationClass.options,
      ),
    )
    .option('--json', 'print the record');
  return withRetries(command).action(async (words: string[], options: Options) => {
    let known: CocoreClient | undefined;
    // What is wrong with the code is said before what is wrong with the server.
    const client = () => (known ??= connect(process.env));
    const { deploy, project } = await sourceOf(words, options, client);
    const printer = new DeployProgressPrinter(process.stderr);
    const given = { ...deploy, ...settings(options, project) };
    const onEvent: DeployOptions['onEvent'] = (event) =>
      event.event === 'progress' ? printer.progress(event.data) : printer.output(event.data);
    const record = await client()
      .functions.deploy(given, { onEvent })
      .finally(() => printer.end());
    if (options.json === true) printJson(record);
    else process.stdout.write(`${plain(record.name)} version ${record.version} (${record.id})\n`);
  });
}
