/**
 * The worker daemon. It is run, not imported (`src/main.ts`); what is exported here is what its host checks look like.
 *
 * @module
 */
export type { HostCheck } from './host/check.ts';
export { probeHost } from './probe.ts';
