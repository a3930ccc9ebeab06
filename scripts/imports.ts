import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';

/**
 * Which package may import which, and what stays pure. npm's workspaces do not check this.
 *
 * Every folder named here is the root of a layer; a file belongs to the longest layer that holds it.
 */
interface Layer {
  /** CoCore packages that may be imported. */
  readonly mayImport: readonly string[];
  /** No `node:`, so that it runs anywhere and is tested without effects. */
  readonly pure?: boolean;
}

export const LAYERS: Record<string, Layer> = {
  'packages/protocol/src': { mayImport: [], pure: true },
  'packages/client/src': { mayImport: ['@cocore/protocol'], pure: true },
  // Chosen by `imports` in the manifest where there is Node.
  'packages/client/src/node': { mayImport: ['@cocore/protocol'] },
  'packages/control/src': { mayImport: ['@cocore/protocol'] },
  'packages/control/src/scheduler': { mayImport: ['@cocore/protocol'], pure: true },
  'packages/worker/src': { mayImport: ['@cocore/protocol'] },
  'packages/worker/src/capacity': { mayImport: ['@cocore/protocol'], pure: true },
  'packages/cli/src': { mayImport: ['@cocore/client', '@cocore/protocol'] },
};

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\b[^;'"]*?from\s*['"]([^'"]+)['"]|\bimport\s*\(\s*['"]([^'"]+)['"]\s*\)|(?:^|\n)\s*import\s*['"]([^'"]+)['"]/g;

export interface Fault {
  readonly file: string;
  readonly message: string;
}

function sourceFiles(directory: string): string[] {
  return readdirSync(directory).flatMap((name) => {
    const path = join(directory, name);
    if (statSync(path).isDirectory()) return name === 'node_modules' || name === 'build' ? [] : sourceFiles(path);
    return path.endsWith('.ts') ? [path] : [];
  });
}

/** The longest that holds the file. */
const layerOf = (file: string): string | undefined =>
  Object.keys(LAYERS)
    .filter((name) => file.startsWith(`${name}/`))
    .sort((one, other) => other.length - one.length)[0];

/** The faults of one file's text, as if it stood at `file` (relative to the repository's root). */
export function faultsOf(file: string, text: string, declared: ReadonlySet<string>): Fault[] {
  const layerName = layerOf(file);
  if (layerName === undefined) return [];
  const layer = LAYERS[layerName]!;
  const packageRoot = file.split('/').slice(0, 2).join('/');
  const faults: Fault[] = [];
  for (const match of text.matchAll(IMPORT)) {
    const target = match[1] ?? match[2] ?? match[3]!;
    if (target.startsWith('.')) {
      const resolved = join(file, '..', target);
      if (!resolved.startsWith(`${packageRoot}/`))
        faults.push({ file, message: `reaches out of its package: ${target}` });
      if (layer.pure === true && layerOf(resolved) !== layerName) {
        faults.push({ file, message: `is pure, and imports from outside its folder: ${target}` });
      }
      continue;
    }
    if (target.startsWith('node:')) {
      if (layer.pure === true) faults.push({ file, message: `must stay pure, and imports ${target}` });
      continue;
    }
    const name = target
      .split('/')
      .slice(0, target.startsWith('@') ? 2 : 1)
      .join('/');
    if (!declared.has(name)) faults.push({ file, message: `imports ${name}, which its package does not declare` });
    if (name.startsWith('@cocore/') && !layer.mayImport.includes(name)) {
      faults.push({ file, message: `may not import ${name}` });
    }
  }
  return faults;
}

/** Every fault in the packages of the repository at `root`. */
export function importFaults(root: string): Fault[] {
  return readdirSync(join(root, 'packages')).flatMap((name) => {
    const manifest = JSON.parse(readFileSync(join(root, 'packages', name, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>;
      imports?: Record<string, unknown>;
    };
    const declared = new Set(Object.keys({ ...manifest.dependencies, ...manifest.imports }));
    return sourceFiles(join(root, 'packages', name, 'src')).flatMap((path) =>
      faultsOf(relative(root, path), readFileSync(path, 'utf8'), declared),
    );
  });
}
