/** One event of a server-sent stream. */
export interface ServerSentEvent {
  readonly event: string;
  readonly id: string;
  readonly data: string;
}

/**
 * Cuts a stream of text into events (the HTML standard, 9.2.6). Comments and retry times are left out; an event that the
 * stream's end cuts off is never given.
 */
export class SseParser {
  #rest = '';
  #event = '';
  #id = '';
  #data: string[] = [];

  *push(text: string): Generator<ServerSentEvent> {
    this.#rest += text;
    for (;;) {
      const end = /\r\n|\n|\r(?=.)/s.exec(this.#rest);
      if (end === null) return;
      const line = this.#rest.slice(0, end.index);
      this.#rest = this.#rest.slice(end.index + end[0].length);
      if (line !== '') {
        this.#field(line);
        continue;
      }
      if (this.#data.length > 0) {
        yield { event: this.#event === '' ? 'message' : this.#event, id: this.#id, data: this.#data.join('\n') };
      }
      this.#event = '';
      this.#data = [];
    }
  }

  #field(line: string): void {
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const name = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'event') this.#event = value;
    else if (name === 'id') this.#id = value;
    else if (name === 'data') this.#data.push(value);
  }
}
