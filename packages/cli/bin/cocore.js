#!/usr/bin/env node
// The entry must run on any Node from 18 on: the command itself needs the Node 24 that the lock file brings.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { arch } from 'node:os';
import { fileURLToPath } from 'node:url';

// Node reads its arguments leniently: bytes that are not UTF-8 would reach a function as other characters.
if (process.argv.some((argument) => argument.includes('\ufffd'))) {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(readFileSync('/proc/self/cmdline'));
  } catch {
    console.error('error invalid_text: an argument is not valid UTF-8');
    console.error('Send text in UTF-8 without NUL characters; send other bytes by standard input.');
    process.exit(2);
  }
}

const [major, minor] = process.versions.node.split('.').map(Number);

if (major > 24 || (major === 24 && minor >= 12)) {
  await import('../src/main.ts');
} else {
  let node;
  try {
    node = createRequire(import.meta.url).resolve(`node-linux-${arch()}/bin/node`);
  } catch {
    console.error('error usage: Node 24.12 or newer is needed, and it is not installed here');
    console.error('Run npm ci in the checkout, or install Node 24.');
    process.exit(2);
  }
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('exit', (code, signal) => {
    process.exitCode = code === null ? (signal === 'SIGKILL' ? 137 : 1) : code;
  });
}
