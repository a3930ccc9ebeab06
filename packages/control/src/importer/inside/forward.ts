import { connect, createServer, type Server } from 'node:net';

/** Listens on a loopback address of the jail and passes every connection to a Unix socket of the control server. */
export async function forward(host: string, port: number, socketPath: string): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({ path: socketPath, allowHalfOpen: true });
    client.pipe(upstream);
    upstream.pipe(client);
    client.once('error', () => upstream.destroy());
    upstream.once('error', () => client.destroy());
    client.once('close', () => upstream.destroy());
    // What it sent before its end may still be on its way; without an end it broke off.
    upstream.once('close', () => {
      if (!upstream.readableEnded) client.destroy();
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  return server;
}
