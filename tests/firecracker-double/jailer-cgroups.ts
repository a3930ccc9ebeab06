import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { FlagError } from './flags.ts';

/** A group that the jailer makes and joins, or only joins. */
export interface GroupToJoin {
  readonly path: string;
  /** Where the process id goes. */
  readonly membersFile: 'tasks' | 'cgroup.procs';
  readonly properties: readonly { readonly file: string; readonly value: string }[];
}

export interface CgroupArguments {
  readonly version: string;
  readonly parent: string;
  /** `<file>=<value>` */
  readonly properties: readonly string[];
  readonly id: string;
  /** The text of `/proc/mounts`. */
  readonly mounts: string;
}

const isRelative = (path: string) =>
  !path.startsWith('/') && path.split('/').every((part) => part !== '.' && part !== '..');

/** As documented for `--cgroup`, `--cgroup-version` and `--parent-cgroup`. @throws FlagError */
export function groupsToJoin({ version, parent, properties, id, mounts }: CgroupArguments): GroupToJoin[] {
  if (!isRelative(parent)) {
    throw new FlagError("Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'");
  }
  if (version !== '1' && version !== '2') throw new FlagError(`${version} is an invalid cgroup version specifier`);
  if (properties.length === 0) {
    // Under version 1 nothing is done; under version 2 the process moves to the parent, if there is one.
    const path = version === '2' ? join(unified(mounts), parent) : '';
    return version === '2' && existsSync(path) ? [{ path, membersFile: 'cgroup.procs', properties: [] }] : [];
  }
  const groups = new Map<string, { file: string; value: string }[]>();
  for (const property of properties) {
    const parts = property.split('=');
    const [file, value] = parts;
    if (parts.length !== 2 || file === undefined || value === undefined || value === '') {
      throw new FlagError(`Invalid format for cgroups: ${property}`);
    }
    if (!isRelative(file) || !file.includes('.')) throw new FlagError(`Cgroup invalid file: ${property}`);
    const root = version === '2' ? unified(mounts) : controllerRoot(mounts, file.split('.')[0]!);
    const path = join(root, parent, id);
    groups.set(path, [...(groups.get(path) ?? []), { file, value }]);
  }
  const membersFile = version === '2' ? 'cgroup.procs' : 'tasks';
  return [...groups].map(([path, list]) => ({ path, membersFile, properties: list }));
}

export function joinGroup({ path, membersFile, properties }: GroupToJoin, pid: number): void {
  mkdirSync(path, { recursive: true });
  for (const { file, value } of properties) {
    if (membersFile === 'cgroup.procs') enable(dirname(path), file.split('.')[0]!);
    writeFileSync(join(path, file), `${value}\n`);
  }
  writeFileSync(join(path, membersFile), `${pid}\n`);
}

/** A controller must be passed down by every ancestor. */
function enable(path: string, controller: string): void {
  const control = join(path, 'cgroup.subtree_control');
  if (!existsSync(control)) return;
  enable(dirname(path), controller);
  if (!readFileSync(control, 'utf8').split(/\s/).includes(controller)) writeFileSync(control, `+${controller}\n`);
}

function unified(mounts: string): string {
  const found = /^\S+ (\S+) cgroup2 /m.exec(mounts)?.[1];
  if (found === undefined) throw new FlagError('Hierarchy not found: No hierarchy found for this cgroup version.');
  return found;
}

function controllerRoot(mounts: string, controller: string): string {
  for (const line of mounts.split('\n')) {
    const [, path, type, options] = line.split(' ');
    if (type === 'cgroup' && path !== undefined && options?.split(',').includes(controller)) return path;
  }
  throw new FlagError(`Controller ${controller} is unavailable`);
}
