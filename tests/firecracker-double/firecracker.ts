/**
 * A double of Firecracker, for tests: it serves the API as strictly as the official description says (an unknown field, a wrong order or
 * a wrong state is the documented 400), and boots what it was configured with in QEMU under software emulation. QEMU has no vsock
 * without the host's kernel, so the hybrid vsock's socket speaks the documented protocol and leads to a virtio-serial port of the guest.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { ApiDescription } from './api-description.ts';
import { checkInstanceId, FlagError, parseFlags } from './flags.ts';
import { JAILED, OFFICIAL_DESCRIPTION, type Settings, VERSION } from './place.ts';
import { type Fault, Vmm } from './vmm.ts';

const FLAGS = {
  'api-sock': { value: true },
  id: { value: true },
  'seccomp-filter': { value: true },
  'no-seccomp': { value: false },
  'start-time-us': { value: true },
  'start-time-cpu-us': { value: true },
  'parent-cpu-time-us': { value: true },
  'config-file': { value: true },
  metadata: { value: true },
  'no-api': { value: false },
  'log-path': { value: true },
  level: { value: true },
  module: { value: true },
  'show-level': { value: false },
  'show-log-origin': { value: false },
  'metrics-path': { value: true },
  'boot-timer': { value: false },
  version: { value: false },
  help: { value: false },
  'snapshot-version': { value: false },
  'describe-snapshot': { value: true },
  'http-api-max-payload-size': { value: true },
  'mmds-size-limit': { value: true },
  'enable-pci': { value: false },
};

/** Exit codes as documented. */
const BAD_ARGUMENTS = 153;
const MAX_BODY_BYTES = 51_200;

function main(argv: readonly string[]): void {
  const { values, extra } = parseFlags(FLAGS, argv);
  if (extra.length > 0) throw new FlagError(`Found argument '${extra[0]}' which wasn't expected`);
  if (values.has('version') || values.has('help')) {
    process.stdout.write(`Firecracker v${VERSION}\n\n`);
    return;
  }
  const id = values.get('id')?.[0] ?? 'anonymous-instance';
  checkInstanceId(id);
  const socket = values.get('api-sock')?.[0] ?? '/run/firecracker.socket';
  const isJailed = existsSync(JAILED);
  const description = ApiDescription.read(isJailed ? `${JAILED}/api.yaml` : OFFICIAL_DESCRIPTION);
  const settings = isJailed
    ? (JSON.parse(readFileSync(`${JAILED}/settings.json`, 'utf8')) as Settings)
    : { qemu: '/usr/bin/qemu-system-x86_64', tscKhz: null };
  const fault = (process.env['DOUBLE_FAULT'] as Fault | undefined) ?? null;
  const vmm = new Vmm(id, description, settings, fault);
  const logPath = values.get('log-path')?.[0];
  if (logPath !== undefined) vmm.logTo(logPath);
  const server = createServer((request, response) => {
    const answer = async () => {
      if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) return { status: 413, body: {} };
      return vmm.serve(request.method ?? '', request.url ?? '', await text(request));
    };
    answer().then(
      ({ status, body }) => {
        response.writeHead(status, { 'Content-Type': 'application/json' });
        response.end(body === undefined ? undefined : JSON.stringify(body));
      },
      () => request.socket.destroy(),
    );
  });
  if (fault === 'no-socket') setInterval(() => undefined, 60_000);
  else server.listen(socket);
}

try {
  main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = error instanceof FlagError ? BAD_ARGUMENTS : 1;
}
