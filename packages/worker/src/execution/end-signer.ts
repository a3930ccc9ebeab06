/** The signature of more ends would cost less for each, and what each carries and the server stores is longer. */
const MAX_TOGETHER = 16;

interface Waiting {
  readonly statement: string;
  readonly signed: (signature: string) => void;
}

export interface EndSignerParts {
  /** With the worker's key, all together. */
  readonly signEnds: (statements: readonly string[]) => string[];
  /** Whether the control server takes signatures that ends share. */
  readonly isShared: () => boolean;
}

/** Signs ends; those that come in the same turn of the event loop with one signature. One that is alone waits for nobody. */
export class EndSigner {
  readonly #parts: EndSignerParts;
  #waiting: Waiting[] = [];

  constructor(parts: EndSignerParts) {
    this.#parts = parts;
  }

  /** What the end carries as its signature. */
  sign(statement: string): Promise<string> {
    return new Promise((signed) => {
      this.#waiting.push({ statement, signed });
      if (this.#waiting.length === 1) queueMicrotask(() => this.#signAll());
    });
  }

  #signAll(): void {
    const { signEnds, isShared } = this.#parts;
    const size = isShared() ? MAX_TOGETHER : 1;
    const waiting = this.#waiting.splice(0);
    for (let from = 0; from < waiting.length; from += size) {
      const group = waiting.slice(from, from + size);
      const signatures = signEnds(group.map(({ statement }) => statement));
      for (const [at, { signed }] of group.entries()) signed(signatures[at]!);
    }
  }
}
