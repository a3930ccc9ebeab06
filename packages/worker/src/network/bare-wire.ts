import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SandboxNetwork } from '../sandbox/driver.ts';
import { UidPool } from '../sandbox/uid-pool.ts';
import { Gate, GATE } from './gate.ts';

/** A network from which nothing is reached: nobody decides what its gate may do. */
export function bareWire(program: string = GATE): SandboxNetwork {
  const nothing = () => undefined;
  return {
    attach: async (plug) => {
      await using scope = new AsyncDisposableStack();
      const { uid } = scope.use(await new UidPool().take());
      const root = await mkdtemp(join(tmpdir(), 'cocore-gate-'));
      scope.defer(() => rmdir(root));
      const gate = scope.use(
        await Gate.open({ plug, uid, program, root, maxBytes: 1, onNews: nothing, onLost: nothing }),
      );
      const owned = scope.move();
      return { namespacePath: gate.namespacePath, [Symbol.asyncDispose]: () => owned.disposeAsync() };
    },
  };
}
