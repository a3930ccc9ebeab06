import { createServer, type Server } from 'node:net';

/** A name that one process of this host, or rather of its network namespace, holds; the kernel frees it when the process ends, however it ends. */
export interface HostLock extends AsyncDisposable {
  /** A process that inherits this descriptor holds the name too, until it ends. */
  readonly fd: number;
}

/**
 * Takes `cocore/<name>`; null when it is taken. It is an address in the abstract namespace of Unix sockets, so that nothing is left
 * in a file system and no lock is ever stale. Who connects is turned away.
 */
export async function takeHostLock(name: string): Promise<HostLock | null> {
  const server = createServer((socket) => socket.destroy());
  server.unref();
  const taken = Promise.withResolvers<boolean>();
  server.once('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EADDRINUSE') taken.resolve(false);
    else taken.reject(error);
  });
  server.listen({ path: `\0cocore/${name}` }, () => taken.resolve(true));
  if (!(await taken.promise)) return null;
  return {
    fd: descriptorOf(server),
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Node has no public name for it. */
function descriptorOf(server: Server): number {
  const { _handle: handle } = server as Server & { readonly _handle?: { readonly fd?: number } };
  if (typeof handle?.fd !== 'number' || handle.fd < 0) throw new Error('a lock has no descriptor');
  return handle.fd;
}
