/**
 * A double of Firecracker's jailer, for tests: it takes the documented flags and no other, lays out the documented jail
 * (`<base>/<file name of the VMM>/<id>/root`, the program copied in, device nodes, a pid file), joins control groups, limits resources,
 * changes the root, gives up root, and becomes the program.
 *
 * What differs from the real one: Firecracker is one static file, and its double is a program for Node that starts QEMU. So the jail also
 * has, read-only, the host's `/usr` (with the links to it), `/etc/ld.so.cache`, and `/double` with Node and the double's own
 * files. And the last steps are a shell's (`enter.sh`), because Node cannot take them.
 */
import { copyFileSync, mkdirSync, readFileSync, realpathSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hostTscKhz } from '../../packages/worker/src/sandbox/qemu/tsc.ts';
import { checkInstanceId, FlagError, parseFlags } from './flags.ts';
import { groupsToJoin, joinGroup } from './jailer-cgroups.ts';
import { CHECKOUT, OFFICIAL_DESCRIPTION, VERSION } from './place.ts';

const FLAGS = {
  id: { value: true, required: true },
  'exec-file': { value: true, required: true },
  uid: { value: true, required: true },
  gid: { value: true, required: true },
  'chroot-base-dir': { value: true },
  netns: { value: true },
  daemonize: { value: false },
  'new-pid-ns': { value: false },
  cgroup: { value: true, many: true },
  'resource-limit': { value: true, many: true },
  'cgroup-version': { value: true },
  'parent-cgroup': { value: true },
  version: { value: false },
  help: { value: false },
};

function main(argv: readonly string[], tscKhz: number | null): void {
  const { values, extra } = parseFlags(FLAGS, argv);
  const one = (name: string) => values.get(name)?.[0];
  if (values.has('version') || values.has('help')) {
    process.stdout.write(`Jailer v${VERSION}\n\n`);
    return;
  }
  const id = one('id')!;
  checkInstanceId(id);
  const execFile = realpathSync(one('exec-file')!);
  if (!statSync(execFile).isFile()) throw new FlagError(`${execFile} is not a file`);
  const base = realpathSync(one('chroot-base-dir') ?? '/srv/jailer');
  if (!statSync(base).isDirectory()) throw new FlagError(`${base} is not a directory`);
  const [uid, gid] = [number(one('uid')!, 'uid'), number(one('gid')!, 'gid')];
  const execName = basename(execFile);
  const groups = groupsToJoin({
    version: one('cgroup-version') ?? '1',
    parent: one('parent-cgroup') ?? execName,
    properties: values.get('cgroup') ?? [],
    id,
    mounts: readFileSync('/proc/mounts', 'utf8'),
  });
  const limits = resourceLimits(values.get('resource-limit') ?? []);

  const root = join(base, execName, id, 'root');
  mkdirSync(root, { recursive: true });
  copyFileSync(execFile, join(root, execName));
  for (const group of groups) joinGroup(group, process.pid);
  // What only the double needs.
  mkdirSync(join(root, 'double'));
  writeFileSync(join(root, 'double/settings.json'), JSON.stringify({ qemu: '/usr/bin/qemu-system-x86_64', tscKhz }));

  const netns = one('netns');
  const enter = fileURLToPath(new URL('enter.sh', import.meta.url));
  const command = [
    ...(netns === undefined ? [] : ['nsenter', `--net=${netns}`, '--']),
    ...['unshare', '--mount', '--propagation', 'slave', '--', '/bin/sh', enter, `/${execName}`],
    ...['--id', id, '--start-time-us', '0', '--start-time-cpu-us', '0', '--parent-cpu-time-us', '0', ...extra],
  ];
  if (process.execve === undefined) throw new Error('the double needs Node 24');
  process.execve('/usr/bin/env', ['env', ...command], {
    PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
    ROOT: root,
    IDS: `${uid}:${gid}`,
    CHECKOUT,
    NODE: process.execPath,
    DESCRIPTION: OFFICIAL_DESCRIPTION,
    FSIZE: limits.fsize ?? 'unlimited',
    NOFILE: limits['no-file'] ?? '2048',
    NEW_PID_NS: values.has('new-pid-ns') ? '1' : '',
    DAEMONIZE: values.has('daemonize') ? '1' : '',
  });
}

function number(text: string, what: string): number {
  if (!/^\d{1,10}$/.test(text) || Number(text) > 0xffff_ffff) throw new FlagError(`Invalid ${what}: ${text}`);
  return Number(text);
}

function resourceLimits(list: readonly string[]): Record<string, string> {
  const limits: Record<string, string> = {};
  for (const item of list) {
    const at = item.indexOf('=');
    if (at === -1) throw new FlagError(`Invalid format for resources limits: ${item}`);
    const [name, value] = [item.slice(0, at), item.slice(at + 1)];
    if (!/^\d+$/.test(value)) throw new FlagError(`Invalid limit value for resource: ${value}: invalid digit found`);
    if (name !== 'fsize' && name !== 'no-file') throw new FlagError(`Invalid resource argument: ${name}`);
    limits[name] = value;
  }
  return limits;
}

try {
  main(process.argv.slice(2), await hostTscKhz());
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
