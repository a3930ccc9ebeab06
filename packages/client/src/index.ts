/**
 * The typed client of CoCore's HTTP API, for Node and browsers: `@cocore/protocol`, and `node:http` or `fetch`, only.
 *
 * @module
 */
export type { DeployOptions } from './deploy.ts';
export { CocoreClient, type ClientOptions } from './client.ts';
export type { ExecutionEvent } from './follow.ts';
