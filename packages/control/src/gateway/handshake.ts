import { randomBytes, randomUUID } from 'node:crypto';
import {
  CocoreError,
  GATEWAY_PROTOCOL_VERSION,
  helloStatement,
  parseWorkerMessage,
  type WorkerHello,
} from '@cocore/protocol';
import type { WebSocket } from 'ws';
import { joinTokenHash, randomSecret, sha256 } from '../auth/secrets.ts';
import type { ServerNames } from '../auth/server-names.ts';
import type { Clock } from '../clock.ts';
import type { SessionOpened, Store } from '../store/store.ts';
import { ed25519Key, isSignedBy } from './identity.ts';
import type { SessionFacts } from './session.ts';

export const HANDSHAKE_TIMEOUT_MS = 10_000;

export interface HandshakeParts {
  readonly store: Store;
  readonly serverId: string;
  /** Of this life of it, where other servers may use the store. */
  readonly life?: string | null;
  /** Of the store. */
  readonly incarnation: string;
  readonly names: ServerNames;
  readonly clock: Clock;
  readonly timeoutMs?: number;
}

/** Whether a daemon that has proven its key may have a session now. @throws CocoreError `worker_duplicate` */
export type Admit = (hello: WorkerHello) => void;

export interface Handshaken {
  readonly facts: SessionFacts;
  readonly hello: WorkerHello;
  readonly opened: SessionOpened;
  /** What it fetches blobs with in this session. */
  readonly blobToken: string;
}

/**
 * Challenges whoever dialled, and opens a session for a worker that proves its key.
 *
 * @throws CocoreError `protocol_violation`, `protocol_version`, `server_mismatch`, `signature_invalid`, `worker_duplicate`, `join_token_invalid`, `worker_unknown`
 */
export async function shakeHands(socket: WebSocket, parts: HandshakeParts, admit: Admit): Promise<Handshaken> {
  const { serverId, names } = parts;
  const nonce = randomBytes(32).toString('base64url');
  const answer = nextMessage(socket, parts.timeoutMs ?? HANDSHAKE_TIMEOUT_MS);
  socket.send(JSON.stringify({ type: 'ServerChallenge', serverId, incarnation: parts.incarnation, nonce }));
  const hello = parseWorkerMessage(await answer);
  if (hello?.type !== 'WorkerHello')
    throw new CocoreError('protocol_violation', 'the first message must be WorkerHello');
  const { min, max } = hello.protocol;
  if (min > GATEWAY_PROTOCOL_VERSION || max < GATEWAY_PROTOCOL_VERSION) {
    throw new CocoreError('protocol_version', `this server speaks version ${GATEWAY_PROTOCOL_VERSION}`);
  }
  if (!names.includes(hello.authority)) {
    throw new CocoreError('server_mismatch', `this server is not ${hello.authority}`);
  }
  const publicKey = ed25519Key(hello.publicKey);
  const statement = helloStatement({ serverId, nonce, authority: hello.authority, publicKey: hello.publicKey });
  if (!(await isSignedBy(publicKey, statement, hello.signature))) {
    throw new CocoreError('signature_invalid', 'the signature of the hello does not fit its key and this challenge');
  }
  admit(hello);
  const sessionId = randomUUID();
  const blobToken = randomSecret();
  const opened = await openSession(parts, sessionId, blobToken, hello);
  return {
    facts: {
      workerId: opened.workerId,
      sessionId,
      publicKey,
      capabilities: hello.capabilities,
      stopping: hello.stopping ?? null,
      openedAtMs: parts.clock.nowMs(),
    },
    hello,
    opened,
    blobToken,
  };
}

async function openSession(
  { store, serverId, life = null }: HandshakeParts,
  sessionId: string,
  blobToken: string,
  hello: WorkerHello,
): Promise<SessionOpened> {
  const { publicKey, name, daemonVersion, platform, capabilities, joinToken, instance = null } = hello;
  const opened = await store.openSession({
    sessionId,
    serverId: life,
    instance,
    blobTokenHash: life === null ? null : blobTokenHash(blobToken),
    publicKey,
    name,
    daemonVersion,
    platform,
    capabilities,
    joinTokenHash: joinToken === undefined ? null : joinTokenHash(joinToken, serverId),
    inventory: hello.inventory.map(({ attemptId, heldFrom = null }) => ({ attemptId, heldFrom })),
  });
  switch (opened.kind) {
    case 'opened':
      return opened;
    case 'unknown_key':
      throw new CocoreError('worker_unknown', 'this worker is not known here, and it sent no join token');
    case 'duplicate':
      throw new CocoreError('worker_duplicate', 'another daemon has this worker’s key and is connected elsewhere');
    case 'token_invalid':
      throw new CocoreError('join_token_invalid', 'the join token was used before, has expired, or was never made');
  }
}

/** By which a token is known. */
export const blobTokenHash = (blobToken: string): string => sha256(blobToken).toString('hex');

/** @throws CocoreError `protocol_violation` when nothing, or something else than text, comes in time */
function nextMessage(socket: WebSocket, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const settle = (error: CocoreError | null, text = '') => {
      clearTimeout(timer);
      socket.off('message', onMessage);
      socket.off('close', onClose);
      if (error === null) resolve(text);
      else reject(error);
    };
    const onMessage = (data: unknown, isBinary: boolean) => {
      if (isBinary) settle(new CocoreError('protocol_violation', 'the first message must be text'));
      else settle(null, (data as Buffer).toString('utf8'));
    };
    const onClose = () => settle(new CocoreError('protocol_violation', 'the connection closed before a hello'));
    const timer = setTimeout(
      () => settle(new CocoreError('protocol_violation', `no hello within ${timeoutMs} ms`)),
      timeoutMs,
    );
    socket.on('message', onMessage);
    socket.once('close', onClose);
  });
}
