import type { EgressUsage } from '@cocore/protocol';
import type { Destination } from './destination.ts';

/** What the gate counts. */
export type GateCounts = Omit<EgressUsage, 'limited'>;

/** What the gate says (`gate/control.h`). */
export type GateNews =
  | { readonly type: 'listens' }
  | { readonly type: 'failed'; readonly message: string }
  | { readonly type: 'wants'; readonly id: number; readonly to: Destination }
  | { readonly type: 'asks'; readonly port: number; readonly datagram: Uint8Array }
  | { readonly type: 'counted'; readonly counts: GateCounts }
  | { readonly type: 'exceeded' };

/** What it is told. `datagram` is an answer to `port`. */
export type GateOrder =
  | { readonly type: 'go' | 'through'; readonly id: number; readonly to: Destination }
  | { readonly type: 'refuse'; readonly id: number }
  | { readonly type: 'answer'; readonly port: number; readonly datagram: Uint8Array }
  | { readonly type: 'count' };

const HEADER_BYTES = 8;
export const MAX_FRAME_BYTES = 1024;
const DESTINATION_BYTES = 6;
const COUNTS_BYTES = 24;

export function encodeOrder(order: GateOrder): Buffer {
  switch (order.type) {
    case 'go':
      return frame('g', order.id, destinationBytes(order.to));
    case 'through':
      return frame('t', order.id, destinationBytes(order.to));
    case 'refuse':
      return frame('n', order.id);
    case 'answer':
      return frame('a', order.port, order.datagram);
    case 'count':
      return frame('q', 0);
  }
}

function frame(letter: string, id: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + payload.length);
  bytes.write(letter, 0, 'latin1');
  bytes.writeUInt16LE(payload.length, 2);
  bytes.writeUInt32LE(id, 4);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

function destinationBytes({ address, port }: Destination): Buffer {
  const bytes = Buffer.alloc(DESTINATION_BYTES);
  bytes.writeUInt32LE(address, 0);
  bytes.writeUInt16LE(port, 4);
  return bytes;
}

export function destinationOf(bytes: Buffer): Destination {
  return { address: bytes.readUInt32LE(0), port: bytes.readUInt16LE(4) };
}

/** Puts frames together from pieces of any size. */
export class GateNewsDecoder {
  #held: Buffer = Buffer.alloc(0);

  /** @throws Error for what the gate cannot say */
  push(piece: Buffer): GateNews[] {
    const bytes = this.#held.length === 0 ? piece : Buffer.concat([this.#held, piece]);
    const news: GateNews[] = [];
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const length = bytes.readUInt16LE(at + 2);
      if (length > MAX_FRAME_BYTES) throw new Error('the gate’s frame is too long');
      if (bytes.length - at < HEADER_BYTES + length) break;
      const payload = bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + length);
      news.push(newsOf(String.fromCharCode(bytes[at]!), bytes.readUInt32LE(at + 4), payload));
      at += HEADER_BYTES + length;
    }
    this.#held = Buffer.from(bytes.subarray(at));
    return news;
  }
}

function newsOf(letter: string, id: number, payload: Buffer): GateNews {
  if (letter === 'r') return { type: 'listens' };
  if (letter === 'f') return { type: 'failed', message: payload.toString('utf8') };
  if (letter === 'w' && payload.length === DESTINATION_BYTES) return { type: 'wants', id, to: destinationOf(payload) };
  if (letter === 'd') return { type: 'asks', port: id, datagram: payload };
  if (letter === 'c' && payload.length === COUNTS_BYTES) return { type: 'counted', counts: countsOf(payload) };
  if (letter === 'x') return { type: 'exceeded' };
  throw new Error('the gate said what it cannot say');
}

const countsOf = (payload: Buffer): GateCounts => ({
  sentBytes: Number(payload.readBigUInt64LE(0)),
  receivedBytes: Number(payload.readBigUInt64LE(8)),
  connections: payload.readUInt32LE(16),
  refused: payload.readUInt32LE(20),
});
