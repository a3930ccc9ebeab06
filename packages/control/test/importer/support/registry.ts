import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface TestRegistry extends AsyncDisposable {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/**
 * Debian's `docker-registry` on the loopback, in a temporary directory.
 *
 * @param htpasswd who may pull; lines of `NAME:BCRYPT`
 */
export async function startRegistry(htpasswd: string | null = null): Promise<TestRegistry> {
  const directory = await mkdtemp(join(tmpdir(), 'cocore-registry-'));
  const host = `127.0.0.1:${await freePort()}`;
  const lines = [
    'version: 0.1',
    'log: { level: error, accesslog: { disabled: true } }',
    `storage: { filesystem: { rootdirectory: ${directory}/data } }`,
    `http: { addr: ${host} }`,
  ];
  if (htpasswd !== null) {
    await writeFile(join(directory, 'htpasswd'), htpasswd);
    lines.push(`auth: { htpasswd: { realm: test, path: ${directory}/htpasswd } }`);
  }
  await writeFile(join(directory, 'config.yml'), lines.join('\n'));
  const child = spawn('docker-registry', ['serve', join(directory, 'config.yml')], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  for (let tries = 0; ; tries += 1) {
    const up = await fetch(`http://${host}/v2/`).then(
      (response) => response.status < 500,
      () => false,
    );
    if (up) break;
    if (tries === 300 || child.exitCode !== null) throw new Error('docker-registry does not start');
    await sleep(50);
  }
  return {
    host,
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await exited;
      await rm(directory, { recursive: true, force: true });
    },
  };
}
