export interface Outgoing {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  /** By names in lower case. How long the body is, the transport says. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array<ArrayBuffer>;
  readonly signal?: AbortSignal;
}

/** What came back, of any status but a redirect. It is read once, in one of three ways; who leaves a loop over the body gives up the rest of it. */
export interface Answer {
  readonly status: number;
  readonly mediaType: string | null;
  readonly body: AsyncIterable<Uint8Array>;
  stream(): ReadableStream<Uint8Array<ArrayBuffer>>;
  text(): Promise<string>;
}

/** The way to one server. */
export interface Transport {
  /**
   * Sends a request once: whoever knows that it is safe sends it again. Resolves with the head of the answer. A redirect is an error, as it would carry
   * the key to another place.
   *
   * @throws the signal's reason; any other error says that there is no answer. So does reading the answer.
   */
  send(request: Outgoing): Promise<Answer>;
}
