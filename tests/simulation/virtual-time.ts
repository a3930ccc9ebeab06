import crypto, { type KeyLike } from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import timersPromises from 'node:timers/promises';
import { currentLife, type Later, type Life, type World } from './world.ts';

/** What a timer's owner holds. */
class VirtualTimer implements Disposable {
  #later: Later | null = null;

  start(world: World, delayMs: number, life: Life, run: () => void): this {
    this.#later = world.later(delayMs, life, run);
    return this;
  }

  cancel(): void {
    this.#later?.cancel();
  }

  unref(): this {
    return this;
  }

  ref(): this {
    return this;
  }

  [Symbol.dispose](): void {
    this.cancel();
  }
}

type Callback = (...values: unknown[]) => void;

/**
 * Puts Node's timers and clocks, as the code of control server and worker uses them, under the world of the moment, until it is disposed of. What runs in no
 * life, such as the test runner, keeps the real ones. Verifying a signature, which goes to a thread otherwise, is done at once.
 */
export function virtualTime(): { enter(world: World): void } & Disposable {
  let world: World;
  const real = {
    setTimeout: globalThis.setTimeout,
    setInterval: globalThis.setInterval,
    setImmediate: globalThis.setImmediate,
    clearTimeout: globalThis.clearTimeout,
    clearInterval: globalThis.clearInterval,
    clearImmediate: globalThis.clearImmediate,
  };
  const realPromises = { setTimeout: timersPromises.setTimeout, setImmediate: timersPromises.setImmediate };
  const realDateNow = Date.now;
  const realNow = performance.now.bind(performance);
  const realVerify = crypto.verify;

  const starts =
    (realStart: (run: Callback, delayMs: number, ...values: unknown[]) => unknown, repeats: boolean) =>
    (run: Callback, delayMs = 0, ...values: unknown[]): unknown => {
      const life = currentLife();
      if (life === undefined) return realStart(run, delayMs, ...values);
      const timer = new VirtualTimer();
      // Node's own shortest.
      const dueMs = Math.max(1, delayMs);
      const fire = () => {
        if (repeats) timer.start(world, dueMs, life, fire);
        run(...values);
      };
      return timer.start(world, dueMs, life, fire);
    };
  const clears =
    (realClear: (timer: never) => void) =>
    (timer: unknown): void => {
      if (timer instanceof VirtualTimer) timer.cancel();
      else realClear(timer as never);
    };
  const immediate = (run: Callback, ...values: unknown[]): unknown => {
    const life = currentLife();
    if (life === undefined) return real.setImmediate(run, ...values);
    return new VirtualTimer().start(world, 0, life, () => run(...values));
  };
  const wait = (delayMs: number, value: unknown, signal: AbortSignal | undefined): Promise<unknown> => {
    const life = currentLife()!;
    return new Promise((resolve, reject) => {
      const abort = () => {
        timer.cancel();
        reject(new DOMException('The operation was aborted', 'AbortError'));
      };
      const timer = new VirtualTimer();
      if (signal?.aborted === true) return abort();
      signal?.addEventListener('abort', abort, { once: true });
      timer.start(world, delayMs, life, () => {
        signal?.removeEventListener('abort', abort);
        resolve(value);
      });
    });
  };
  type Options = { signal?: AbortSignal };
  const isVirtual = () => currentLife() !== undefined;

  Object.assign(globalThis, {
    setTimeout: starts(real.setTimeout, false),
    setInterval: starts(real.setInterval, true),
    setImmediate: immediate,
    clearTimeout: clears(real.clearTimeout),
    clearInterval: clears(real.clearInterval),
    clearImmediate: clears(real.clearImmediate),
  });
  Object.assign(timersPromises, {
    setTimeout: (delayMs?: number, value?: unknown, options?: Options) =>
      isVirtual()
        ? wait(Math.max(1, delayMs ?? 1), value, options?.signal)
        : realPromises.setTimeout(delayMs, value, options),
    setImmediate: (value?: unknown, options?: Options) =>
      isVirtual() ? wait(0, value, options?.signal) : realPromises.setImmediate(value, options),
  });
  Date.now = () => {
    const life = currentLife();
    return life === undefined ? realDateNow() : world.wallMs(life.host);
  };
  performance.now = () => (isVirtual() ? world.nowMs : realNow());
  type Verified = (error: Error | null, isValid: boolean) => void;
  Object.assign(crypto, {
    verify: (kind: null, data: Buffer, key: KeyLike, signature: Buffer, done?: Verified) => {
      if (done === undefined || !isVirtual()) return realVerify(kind, data, key, signature, done as Verified);
      const isValid = realVerify(kind, data, key, signature);
      process.nextTick(() => done(null, isValid));
      return undefined;
    },
  });
  syncBuiltinESMExports();

  return {
    enter: (entered) => (world = entered),
    [Symbol.dispose]: () => {
      Object.assign(globalThis, real);
      Object.assign(timersPromises, realPromises);
      Date.now = realDateNow;
      performance.now = realNow;
      Object.assign(crypto, { verify: realVerify });
      syncBuiltinESMExports();
    },
  };
}
