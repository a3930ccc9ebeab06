/**
 * The typed client of CoCore's HTTP API, for Node and browsers: `fetch` and `@cocore/protocol` only.
 *
 * @module
 */
export type { DeployOptions } from './deploy.ts';
export { CocoreClient, type ClientOptions } from './client.ts';
