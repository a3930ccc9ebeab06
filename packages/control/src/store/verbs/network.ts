import { type Network, NO_NETWORK } from '@cocore/protocol';

/** What a function may reach, as the column of its version holds it: JSON, null for nothing. */

export const networkText = (network: Network): string | null =>
  network.mode === 'none' ? null : JSON.stringify(network);

export const networkOf = (text: string | null): Network => (text === null ? NO_NETWORK : (JSON.parse(text) as Network));
