import type { ChildProcess } from 'node:child_process';
import { isRunning, markOf, type ProcessMark } from '../host/process.ts';
import type { SandboxExit } from './driver.ts';

/** The process whose end is the sandbox's. */
export interface SandboxProcess {
  /** Null when it could not be started. */
  readonly mark: ProcessMark | null;
  /** Resolves when it no longer runs; it never rejects. */
  readonly exited: Promise<SandboxExit>;
  /** Ends a child, which may not have joined its control group yet. What is no child is reached by its group alone: its number may be another's. */
  kill(): void;
}

/** A child of the daemon. What it prints, and why it cannot be started, goes to `print`. */
export function childProcess(child: ChildProcess, print: (bytes: Buffer) => void): SandboxProcess {
  for (const output of [child.stdout, child.stderr]) output?.on('data', print).on('error', () => undefined);
  return {
    mark: child.pid === undefined ? null : markOf(child.pid),
    exited: new Promise((resolve) => {
      child.once('error', (error) => {
        print(Buffer.from(`cannot be started: ${error.message}\n`));
        resolve({ code: null, signal: null });
      });
      child.once('exit', (code, signal) => resolve({ code, signal }));
    }),
    kill: () => void child.kill('SIGKILL'),
  };
}

const LOOK_MS = 100;

/** One that an earlier life of the daemon started. How it ends is told to nobody here. */
export function foundProcess(mark: ProcessMark): SandboxProcess {
  const exited = new Promise<SandboxExit>((resolve) => {
    const timer = setInterval(() => {
      if (isRunning(mark)) return;
      clearInterval(timer);
      resolve({ code: null, signal: null });
    }, LOOK_MS).unref();
  });
  return { mark, exited, kill: () => undefined };
}
