/**
 * What every part of CoCore agrees on. Pure: no input or output, no clock, no `node:`; zod only.
 *
 * Words used throughout (the long form is in `docs/glossary.md`):
 *
 * - *function*: named; its *versions* are immutable (runtime, code, limits).
 * - *execution*: one request to run one version with arguments. Its id, once answered, always answers.
 * - *attempt*: one delivery of an execution to one worker.
 * - *worker*: a host server's daemon as the control server sees it. *Session*: one WebSocket connection of it.
 * - *driver*: how a daemon makes a *sandbox* (a microVM, or a container for weaker drivers), one for each attempt.
 * - *agent*: PID 1 of the microVM; it gets one task, runs it, reports, and powers off.
 * - *project*: whose functions they are. *Owner*: whose host it is.
 *
 * @module
 */
export * from './addresses.ts';
export * from './api.ts';
export * from './bytes.ts';
export * from './delivery.ts';
export * from './end-signature.ts';
export * from './errors.ts';
export * from './event-frames.ts';
export * from './execution.ts';
export * from './gateway.ts';
export * from './guest.ts';
export * from './ids.ts';
export * from './isolation.ts';
export * from './leavings.ts';
export * from './limits.ts';
export * from './network.ts';
export * from './outcome.ts';
export * from './problem.ts';
export * from './project-file.ts';
export * from './recipe.ts';
