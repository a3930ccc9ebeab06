/** Command lines as Firecracker and its jailer take them: `--name value`, each once unless it may come often, unknown ones refused. */
export interface Flag {
  readonly value: boolean;
  readonly required?: boolean;
  readonly many?: boolean;
}

export interface ParsedFlags {
  /** Every value of each flag, in order; a flag without a value has none. */
  readonly values: ReadonlyMap<string, readonly string[]>;
  /** What follows `--`. */
  readonly extra: readonly string[];
}

export class FlagError extends Error {}

/** @throws FlagError with the real programs' words */
export function parseFlags(flags: Readonly<Record<string, Flag>>, argv: readonly string[]): ParsedFlags {
  const end = argv.indexOf('--');
  const own = end === -1 ? argv : argv.slice(0, end);
  const extra = end === -1 ? [] : argv.slice(end + 1);
  const values = new Map<string, string[]>();
  for (let at = 0; at < own.length; at += 1) {
    const argument = own[at]!;
    const name = argument.startsWith('--') ? argument.slice(2) : '';
    const flag = Object.hasOwn(flags, name) ? flags[name] : undefined;
    if (flag === undefined) {
      throw new FlagError(`Found argument '${argument}' which wasn't expected, or isn't valid in this context.`);
    }
    const given = values.get(name) ?? [];
    if (values.has(name) && flag.many !== true)
      throw new FlagError(`The argument '${name}' was provided more than once.`);
    if (flag.value) {
      at += 1;
      const value = own[at];
      if (value === undefined || value.startsWith('--')) {
        throw new FlagError(`The argument '${name}' requires a value, but none was supplied.`);
      }
      given.push(value);
    }
    values.set(name, given);
  }
  if (values.has('version') || values.has('help')) return { values, extra };
  for (const [name, flag] of Object.entries(flags)) {
    if (flag.required === true && !values.has(name)) {
      throw new FlagError(`The argument '${name}' is required, but missing.`);
    }
  }
  return { values, extra };
}

/** What the jailer and Firecracker both ask of an id. @throws FlagError */
export function checkInstanceId(id: string): void {
  if (id.length < 1 || id.length > 64) {
    throw new FlagError(`Invalid len (${id.length});  the length must be between 1 and 64`);
  }
  const at = id.search(/[^\p{L}\p{N}-]/u);
  if (at !== -1) throw new FlagError(`Invalid char (${id[at]}) at position ${at}`);
}
