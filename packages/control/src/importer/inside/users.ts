import { ImportFailure, shown } from './failure.ts';

const MAX_ID = 65_535;

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: number[];
  readonly home: string;
}

interface Account {
  readonly name: string;
  readonly id: number;
  /** A user's: group and home. A group's: members. */
  readonly rest: readonly string[];
}

function accounts(text: string | null): Account[] {
  return (text ?? '').split('\n').flatMap((line) => {
    const [name = '', , id = '', ...rest] = line.trim().split(':');
    return name === '' || name.startsWith('#') || !/^[0-9]+$/.test(id) ? [] : [{ name, id: Number(id), rest }];
  });
}

/**
 * Who the image's `USER` is, as Docker finds it: `user`, `user:group`, each a name or a number; empty means 0. A number need not be in
 * the image's files. The groups that list the user are additional, unless a group was named.
 *
 * @throws ImportFailure `image_refused` for a name that is not in the files, or an id that no sandbox has
 */
export function resolveUser(spec: string, passwd: string | null, group: string | null): ResolvedUser {
  const colon = spec.indexOf(':');
  const userPart = colon === -1 ? spec : spec.slice(0, colon);
  const groupPart = colon === -1 ? '' : spec.slice(colon + 1);
  const numeric = userPart === '' ? 0 : /^[0-9]+$/.test(userPart) ? Number(userPart) : null;
  const account = accounts(passwd).find(({ name, id }) => (numeric === null ? name === userPart : id === numeric));
  if (account === undefined && numeric === null) {
    throw new ImportFailure('image_refused', `the image's user ${shown(userPart)} is not in its /etc/passwd`);
  }
  const uid = account?.id ?? numeric!;
  let gid = account !== undefined && /^[0-9]+$/.test(account.rest[0] ?? '') ? Number(account.rest[0]) : 0;
  let additionalGids: number[] = [];
  const groups = accounts(group);
  if (groupPart !== '') {
    const wanted = /^[0-9]+$/.test(groupPart) ? Number(groupPart) : null;
    const found = groups.find(({ name, id }) => (wanted === null ? name === groupPart : id === wanted));
    if (found === undefined && wanted === null) {
      throw new ImportFailure('image_refused', `the image's group ${shown(groupPart)} is not in its /etc/group`);
    }
    gid = found?.id ?? wanted!;
  } else if (account !== undefined) {
    const listed = groups.filter(({ rest }) => (rest[0] ?? '').split(',').includes(account.name));
    additionalGids = [...new Set(listed.map(({ id }) => id))];
  }
  for (const id of [uid, gid, ...additionalGids]) {
    if (id > MAX_ID)
      throw new ImportFailure('image_refused', `the image's user has the id ${id}; ids go from 0 to ${MAX_ID}`);
  }
  return { uid, gid, additionalGids, home: account?.rest[2] || '/' };
}
