import type { IsolationClass } from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Limits } from '../admission.ts';
import type { Authenticator } from '../auth/secrets.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Clock } from '../clock.ts';
import type { CodeImager } from '../code/code-image.ts';
import type { Images } from '../deploy/from-image.ts';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { EventHub } from '../events.ts';
import type { Gateway } from '../gateway/gateway.ts';
import type { Metrics } from '../metrics.ts';
import type { OutputStore } from '../output/output-store.ts';
import type { BuiltInImages } from '../runtimes/built-in-images.ts';
import type { Recipes } from '../runtimes/recipes.ts';
import type { Store } from '../store/store.ts';

/** What the routes work with. */
export interface HttpParts {
  readonly store: Store;
  readonly authenticator: Authenticator;
  readonly dispatcher: Dispatcher;
  readonly output: OutputStore;
  readonly blobs: BlobStore;
  /** For files of requests that are under way. */
  readonly temporaryDirectory: string;
  readonly imager: CodeImager;
  readonly builtInImages: BuiltInImages;
  readonly recipes: Recipes;
  /** Null where this server imports none. */
  readonly images: Images | null;
  readonly defaultIsolation: IsolationClass;
  readonly gateway: Gateway;
  readonly hub: EventHub;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly limits: Limits;
  readonly log: Logger;
  readonly serverId: string;
  readonly version: string;
  /** Of the certificate that the server made itself. */
  readonly certificateSha256: string | null;
}
