import { readFileSync } from 'node:fs';
import { parse } from 'yaml';

/** What the double and the tests use of a Swagger 2 schema. */
interface Schema {
  readonly $ref?: string;
  readonly type?: 'object' | 'array' | 'string' | 'integer' | 'number' | 'boolean';
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean;
  readonly items?: Schema;
  readonly enum?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
}

interface Operation {
  readonly parameters?: readonly { readonly in: string; readonly schema?: Schema }[];
}

interface Description {
  readonly info: { readonly version: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly definitions: Readonly<Record<string, Schema>>;
}

/** A call that the description knows. */
export interface KnownCall {
  /** The path as the description writes it, such as `/drives/{drive_id}`. */
  readonly template: string;
  /** Faults of the body, worded as Firecracker's own parser words them; none when it may be sent. */
  readonly faults: readonly string[];
}

/** Firecracker's own description of its API, read as strictly as Firecracker reads requests: a field that it does not know is a fault. */
export class ApiDescription {
  readonly #description: Description;

  constructor(yaml: string) {
    this.#description = parse(yaml) as Description;
  }

  static read(path: string): ApiDescription {
    return new ApiDescription(readFileSync(path, 'utf8'));
  }

  get version(): string {
    return this.#description.info.version;
  }

  /** Null when there is no such method or path. `body` is undefined when none was sent. */
  check(method: string, path: string, body: unknown): KnownCall | null {
    for (const [template, operations] of Object.entries(this.#description.paths)) {
      const pattern = new RegExp(`^${template.replaceAll(/\{\w+\}/g, '[^/]+')}$`);
      const operation = operations[method.toLowerCase()];
      if (operation === undefined || !pattern.test(path)) continue;
      const schema = operation.parameters?.find((parameter) => parameter.in === 'body')?.schema;
      if (schema === undefined) {
        return { template, faults: body === undefined ? [] : [`${method} request cannot have a body.`] };
      }
      if (body === undefined) return { template, faults: [`Empty ${method} request.`] };
      return { template, faults: this.#faults(schema, body) };
    }
    return null;
  }

  #faults(schema: Schema, value: unknown): string[] {
    if (schema.$ref !== undefined) {
      const definition = this.#description.definitions[schema.$ref.replace('#/definitions/', '')];
      if (definition === undefined) throw new Error(`the description has no ${schema.$ref}`);
      return this.#faults(definition, value);
    }
    switch (schema.type) {
      case 'array':
        if (!Array.isArray(value)) return [wrongType(value, 'a sequence')];
        return value.flatMap((item) => this.#faults(schema.items ?? {}, item));
      case 'string': {
        if (typeof value !== 'string') return [wrongType(value, 'a string')];
        if (schema.enum === undefined || schema.enum.includes(value)) return [];
        return [`unknown variant \`${value}\`, expected one of ${names(schema.enum)}`];
      }
      case 'boolean':
        return typeof value === 'boolean' ? [] : [wrongType(value, 'a boolean')];
      case 'integer':
      case 'number': {
        if (typeof value !== 'number' || !Number.isInteger(value)) return [wrongType(value, 'an integer')];
        const { minimum = -Infinity, maximum = Infinity } = schema;
        return value >= minimum && value <= maximum ? [] : [`invalid value: integer \`${value}\``];
      }
      default:
        return this.#objectFaults(schema, value);
    }
  }

  #objectFaults(schema: Schema, value: unknown): string[] {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return [wrongType(value, 'an object')];
    const { properties = {}, required = [] } = schema;
    const fields = Object.entries(value);
    const missing = required.filter((name) => !(name in value)).map((name) => `missing field \`${name}\``);
    const inside = fields.flatMap(([name, field]) => {
      const known = properties[name];
      if (known !== undefined) return this.#faults(known, field);
      if (schema.additionalProperties === true) return [];
      return [`unknown field \`${name}\`, expected one of ${names(Object.keys(properties))}`];
    });
    return [...inside, ...missing];
  }
}

const names = (list: readonly string[]) => list.map((name) => `\`${name}\``).join(', ');

const wrongType = (value: unknown, expected: string) =>
  `invalid type: ${value === null ? 'null' : typeof value}, expected ${expected}`;
