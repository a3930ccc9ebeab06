/**
 * The typed client of CoCore's HTTP API, for Node and browsers: `fetch` and `@cocore/protocol` only.
 *
 * @module
 */
export { CocoreClient, type ClientOptions } from './client.ts';
