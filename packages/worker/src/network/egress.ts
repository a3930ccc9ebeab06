import { CocoreError, type Egress, type EgressUsage, isPublicIpv4, MAIL_PORT } from '@cocore/protocol';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { type Clock, deadline } from '../host/clock.ts';
import type { AttachedNetwork, NetworkPlug, SandboxNetwork } from '../sandbox/driver.ts';
import type { UidPool } from '../sandbox/uid-pool.ts';
import { AllowList } from './allow-list.ts';
import type { Destination } from './destination.ts';
import { Gate } from './gate.ts';
import type { GateCounts, GateNews } from './gate-frames.ts';
import { NameServer } from './name-server.ts';
import { Pins } from './pins.ts';
import type { ProxyClient } from './proxy-client.ts';
import type { Resolve } from './resolve.ts';
import { Through } from './through.ts';

export interface EgressParts {
  /** Names it among those alive. */
  readonly name: string;
  readonly network: Egress;
  /** Where its gate has a directory. */
  readonly directory: string;
  readonly uids: UidPool;
  readonly resolve: Resolve;
  /** Whether an address is the worker's own, of its networks, or the control server's. @throws Error when that cannot be told: then nothing is reached */
  readonly isClosed: (address: number) => boolean;
  /** Null: connections are made from this host. */
  readonly proxy: ProxyClient | null;
  readonly log: Logger;
  /** As many bytes have passed as may, and nothing more will. */
  readonly onLimited: () => void;
  /** The sandbox has no network any more, and nobody meant that. */
  readonly onLost: () => void;
  readonly gateProgram?: string;
  /** By which answers of the name server grow old. */
  readonly clock?: Clock;
}

/** How long an answer of the gate is waited for, when what passed is asked for. */
const COUNT_MS = 1_000;
const NOTHING: GateCounts = { sentBytes: 0, receivedBytes: 0, connections: 0, refused: 0 };

/**
 * The network of one execution: what it may reach, what it was answered, and what has passed. A driver attaches the sandbox to it; when a sandbox is started
 * once more, it is attached once more.
 */
export class EgressNetwork implements SandboxNetwork {
  /** What says in the sandbox which name server it has: the gate, as in `guest/agent/network.h`. */
  readonly resolvConf = 'nameserver 10.0.0.1\n';
  readonly #parts: EgressParts;
  readonly #allow: AllowList;
  readonly #pins = new Pins();
  readonly #names: NameServer;
  #gate: Gate | null = null;
  #through: Through | null = null;
  #attached = 0;
  /** Of gates before this one. */
  #before = NOTHING;
  #counts = NOTHING;
  #refusedNames = 0;
  #isLimited = false;
  #counted: PromiseWithResolvers<void> | null = null;

  /** @throws CocoreError `protocol_violation` for a list that is none */
  constructor(parts: EgressParts) {
    this.#parts = parts;
    try {
      this.#allow = new AllowList(parts.network.allow);
    } catch (cause) {
      throw new CocoreError('protocol_violation', `a list of what is allowed: ${(cause as Error).message}`, { cause });
    }
    this.#names = new NameServer({
      allow: this.#allow,
      pins: this.#pins,
      resolve: parts.resolve,
      isOpen: (address) => this.#isOpen(address),
      onRefused: () => (this.#refusedNames += 1),
      ...(parts.clock === undefined ? {} : { clock: parts.clock }),
    });
  }

  async attach(plug: NetworkPlug): Promise<AttachedNetwork> {
    if (this.#gate !== null) throw new Error('another sandbox is attached');
    const { name, directory, uids, proxy, network, gateProgram } = this.#parts;
    await using scope = new AsyncDisposableStack();
    this.#attached += 1;
    const root = join(directory, `${name}.${this.#attached}`);
    scope.defer(() => rm(root, { recursive: true, force: true }));
    await mkdir(root, { recursive: true, mode: 0o755 });
    const { uid } = scope.use(await uids.take());
    const through = proxy === null ? null : scope.use(await Through.listen(root, proxy));
    const passed = this.#counts.sentBytes + this.#counts.receivedBytes;
    const gate = scope.use(
      await Gate.open({
        plug,
        uid,
        root,
        maxBytes: Math.max(1, network.maxBytes - passed),
        onNews: (news) => this.#hear(news),
        onLost: () => this.#lost(),
        ...(gateProgram === undefined ? {} : { program: gateProgram }),
      }),
    );
    this.#before = this.#counts;
    this.#gate = gate;
    this.#through = through;
    scope.defer(() => {
      this.#gate = null;
      this.#through = null;
    });
    const owned = scope.move();
    return { namespacePath: gate.namespacePath, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  /** What has passed until now. */
  async usage(): Promise<EgressUsage> {
    if (this.#gate !== null) {
      this.#counted ??= Promise.withResolvers();
      this.#gate.tell({ type: 'count' });
      using _late = deadline(COUNT_MS, () => this.#hasCounted());
      await this.#counted.promise;
    }
    return { ...this.#counts, refused: this.#counts.refused + this.#refusedNames, limited: this.#isLimited };
  }

  #hasCounted(): void {
    this.#counted?.resolve();
    this.#counted = null;
  }

  #hear(news: GateNews): void {
    switch (news.type) {
      case 'wants':
        return this.#decide(news.id, news.to);
      case 'asks':
        return void this.#names.answer(news.datagram).then((datagram) => {
          if (datagram !== null) this.#gate?.tell({ type: 'answer', port: news.port, datagram });
        });
      case 'counted':
        this.#counts = sum(this.#before, news.counts);
        return this.#hasCounted();
      case 'exceeded':
        this.#isLimited = true;
        return this.#parts.onLimited();
      case 'listens':
      case 'failed':
        // Both are before all else, and heard by who opens the gate.
        return;
    }
  }

  #decide(id: number, to: Destination): void {
    if (!this.#permits(to)) return this.#gate?.tell({ type: 'refuse', id });
    this.#through?.expect(id, to);
    this.#gate?.tell({ type: this.#through === null ? 'go' : 'through', id, to });
  }

  #permits({ address, port }: Destination): boolean {
    if (port === MAIL_PORT) return false;
    return (this.#pins.permits(address, port) || this.#allow.permitsAddress(address, port)) && this.#isOpen(address);
  }

  #isOpen(address: number): boolean {
    if (!isPublicIpv4(address)) return false;
    try {
      return !this.#parts.isClosed(address);
    } catch (err) {
      this.#parts.log.error({ err }, 'nothing is reached: the addresses of this host cannot be told');
      return false;
    }
  }

  #lost(): void {
    this.#hasCounted();
    this.#parts.onLost();
  }
}

const sum = (one: GateCounts, other: GateCounts): GateCounts => ({
  sentBytes: one.sentBytes + other.sentBytes,
  receivedBytes: one.receivedBytes + other.receivedBytes,
  connections: one.connections + other.connections,
  refused: one.refused + other.refused,
});
