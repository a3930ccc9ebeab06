// Runs a handler: the event from standard input, its result to the file that COCORE_RESULT names.
//
// handler.mjs ENTRY HANDLER [ARGUMENT...]
import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { pathToFileURL } from 'node:url';

const began = performance.now();
// As much of an error as its reader can use.
const MOST_CHARACTERS = 16 * 1024;

const number = (text) => (text === undefined ? null : Number(text));
const { env } = process;
const timeoutMs = number(env.COCORE_TIMEOUT_MS);
const context = {
  executionId: env.COCORE_EXECUTION_ID ?? null,
  functionName: env.COCORE_FUNCTION_NAME ?? null,
  functionVersion: number(env.COCORE_FUNCTION_VERSION),
  memoryMiB: number(env.COCORE_MEMORY_MIB),
  /** How long the handler may still run; null where that is not known. */
  remainingMs: () => (timeoutMs === null ? null : Math.max(0, Math.round(timeoutMs - (performance.now() - began)))),
};

// JSON leaves out or changes what it cannot say; a result is what the handler returned, or it is an error.
function checked(key, value) {
  const where = key === '' ? 'what the handler returned' : `${JSON.stringify(key)} in what the handler returned`;
  const refuse = (what) => new TypeError(`${where} is not JSON: ${what}`);
  switch (typeof value) {
    case 'number':
      if (!Number.isFinite(value)) throw refuse(String(value));
      break;
    case 'string':
      if (!value.isWellFormed()) throw refuse('a string with half a character');
      break;
    case 'bigint':
    case 'function':
    case 'symbol':
      throw refuse(`a ${typeof value}`);
    case 'object':
      if (value instanceof Map || value instanceof Set || value instanceof Promise)
        throw refuse(`a ${value.constructor.name}`);
  }
  return value;
}

function write(value) {
  if (env.COCORE_RESULT === undefined) return;
  let content;
  try {
    content = JSON.stringify(value ?? null, checked);
  } catch (cause) {
    if (cause.message.includes('is not JSON')) throw cause;
    throw new TypeError(`what the handler returned is not JSON: ${cause.message}`);
  }
  writeFileSync(env.COCORE_RESULT, content);
}

function fail(error) {
  const known = error instanceof Error;
  const text = {
    type: known ? (error.constructor?.name ?? error.name) : typeof error,
    message: known ? error.message : String(error),
    stack: known ? (error.stack ?? '') : '',
  };
  console.error(error);
  const readable = Object.entries(text).map(([key, value]) => [
    key,
    String(value).slice(0, MOST_CHARACTERS).toWellFormed(),
  ]);
  write({ $cocoreError: Object.fromEntries(readable) });
  process.exit(1);
}

function find(module, entry, name) {
  const { default: main } = module;
  // CommonJS exports are the default of what import() gives, and so is the default of code that was compiled to CommonJS.
  const candidates = [
    module[name],
    main?.[name],
    ...(name === 'handler' || name === 'default' ? [main, main?.default] : []),
  ];
  const handler = candidates.find((candidate) => typeof candidate === 'function');
  if (handler === undefined) throw new TypeError(`${basename(entry)} exports no function ${name}`);
  return handler;
}

function event() {
  const text = readFileSync(0, 'utf8');
  if (text.trim() === '') return null;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new SyntaxError(`the event on standard input is not JSON: ${cause.message}`);
  }
}

const [program, , entry, name, ...rest] = process.argv;
process.argv = [program, entry, ...rest];
process.on('uncaughtException', fail);
process.on('beforeExit', () => fail(new Error('the handler waits for something that cannot come any more')));
try {
  const handler = find(await import(pathToFileURL(entry)), entry, name);
  write(await handler(event(), context));
  process.exit(0);
} catch (error) {
  fail(error);
}
