import { batchRoutes } from './batches.ts';
import { blobRoutes } from './blobs.ts';
import { executionRoutes } from './executions.ts';
import { functionRoutes } from './functions.ts';
import { keyRoutes } from './keys.ts';
import { outputRoutes } from './output.ts';
import type { HttpParts } from './parts.ts';
import type { Route } from './route.ts';
import { systemRoutes } from './system.ts';
import { workerRoutes } from './workers.ts';

/** Every route of the server. */
export function allRoutes(parts: HttpParts): Route[] {
  const resources = [
    ...functionRoutes(parts),
    ...executionRoutes(parts),
    ...batchRoutes(parts),
    ...outputRoutes(parts),
    ...blobRoutes(parts),
    ...workerRoutes(parts),
    ...keyRoutes(parts),
  ];
  return [...resources, ...systemRoutes(parts, resources)];
}
