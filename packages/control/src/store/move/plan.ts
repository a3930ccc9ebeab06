import type { Connection } from '../postgres/connection.ts';
import type { CopyType } from '../postgres/copy.ts';
import { control } from '../postgres/running.ts';
import type { Database } from '../sqlite/database.ts';

/** A table that both databases have. */
export interface MovedTable {
  readonly name: string;
  readonly columns: readonly MovedColumn[];
}

export interface MovedColumn {
  readonly name: string;
  readonly type: CopyType;
}

/** What each database says of itself: it moves nowhere. */
const OF_THE_DATABASE: ReadonlySet<string> = new Set(['migrations']);

const TYPES: Readonly<Record<string, CopyType>> = {
  text: 'text',
  bytea: 'bytes',
  bigint: 'integer',
  'double precision': 'real',
};

interface ColumnRow {
  readonly table: string;
  readonly column: string;
  readonly type: string;
}

const COLUMNS_OF_POSTGRES = `
  SELECT table_name::text AS "table", column_name::text AS "column", data_type::text AS type FROM information_schema.columns
  WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position`;

const REFERENCES_OF_POSTGRES = `
  SELECT child.relname::text AS child, parent.relname::text AS parent
  FROM pg_constraint c JOIN pg_class child ON child.oid = c.conrelid JOIN pg_class parent ON parent.oid = c.confrelid
  WHERE c.contype = 'f' AND child.relnamespace = current_schema()::regnamespace`;

const COLUMNS_OF_SQLITE = `
  SELECT t.name AS "table", c.name AS "column" FROM pragma_table_list t, pragma_table_info(t.name) c
  WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'`;

/**
 * What goes from the embedded store to PostgreSQL: each of its tables with all of its columns, those first that others refer to. What only PostgreSQL has
 * begins there with what its schema says.
 *
 * @throws when the embedded store has a table or a column that has no place
 */
export async function planMove(from: Database, to: Connection): Promise<MovedTable[]> {
  const places = byTable((await rowsOf(to, COLUMNS_OF_POSTGRES)) as ColumnRow[]);
  const given = byTable(from.all<ColumnRow>(COLUMNS_OF_SQLITE));
  const tables = [...given.keys()].filter((name) => !OF_THE_DATABASE.has(name));
  const moved = tables.map((name): MovedTable => {
    const place = places.get(name);
    if (place === undefined) throw new Error(`the table ${name} has no place in PostgreSQL`);
    const columns = given.get(name)!.map(({ column }) => {
      const found = place.find((one) => one.column === column);
      if (found === undefined) throw new Error(`the column ${name}.${column} has no place in PostgreSQL`);
      return { name: column, type: typeOf(found.type) };
    });
    return { name, columns };
  });
  return inOrder(moved, (await rowsOf(to, REFERENCES_OF_POSTGRES)) as { child: string; parent: string }[]);
}

/** The names of all tables that PostgreSQL has in the schema. */
export async function tablesOf(to: Connection): Promise<string[]> {
  return [...byTable((await rowsOf(to, COLUMNS_OF_POSTGRES)) as ColumnRow[]).keys()];
}

/** One statement. */
export async function rowsOf(connection: Connection, sql: string): Promise<readonly object[]> {
  const [answer] = await connection.round([control(sql).asked]);
  return answer!.rows;
}

function typeOf(name: string): CopyType {
  const type = TYPES[name];
  if (type === undefined) throw new Error(`no column of the type ${name} is moved`);
  return type;
}

function byTable(rows: readonly ColumnRow[]): Map<string, ColumnRow[]> {
  return Map.groupBy(rows, ({ table }) => table);
}

function inOrder(
  tables: readonly MovedTable[],
  references: readonly { readonly child: string; readonly parent: string }[],
): MovedTable[] {
  const ordered: MovedTable[] = [];
  let rest = [...tables];
  while (rest.length > 0) {
    const waits = ({ name }: MovedTable) =>
      references.some(
        ({ child, parent }) => child === name && parent !== name && rest.some((one) => one.name === parent),
      );
    const ready = rest.filter((table) => !waits(table));
    if (ready.length === 0) throw new Error(`tables refer to each other: ${rest.map(({ name }) => name).join(', ')}`);
    ordered.push(...ready);
    rest = rest.filter(waits);
  }
  return ordered;
}

/** As both databases take a name. */
export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
