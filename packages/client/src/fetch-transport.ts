import type { Answer, Transport } from './transport.ts';

export type Fetch = typeof globalThis.fetch;

/** Where nothing but the platform's `fetch` is sure to be there: in browsers. */
export const platformTransport = (url: string): Transport => fetchTransport(url, globalThis.fetch);

export function fetchTransport(url: string, fetch: Fetch): Transport {
  return {
    send: async ({ path, ...init }) => answerOf(await fetch(new URL(path, url), { ...init, redirect: 'error' })),
  };
}

function answerOf(response: Response): Answer {
  const stream = () => response.body ?? new Blob([]).stream();
  return {
    status: response.status,
    mediaType: response.headers.get('content-type'),
    get body() {
      return stream();
    },
    stream,
    text: () => response.text(),
  };
}
