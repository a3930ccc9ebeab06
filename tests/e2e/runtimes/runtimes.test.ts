import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { image, push } from '../../../packages/control/test/importer/support/images.ts';
import { startRegistry, type TestRegistry } from '../../../packages/control/test/importer/support/registry.ts';
import { ROOT } from '../support/command.ts';
import { Stack } from '../support/stack.ts';

/**
 * The recipes on images of registries, with their own commands and variables. Only the images are others: Debian's packages of the same languages,
 * from a registry on the loopback, because no test may depend on a registry of somebody else's.
 */
interface Language {
  readonly name: string;
  readonly packages: readonly string[];
  /** The first is the entry; prints its arguments and the lines of standard input counted, and ends with 3. */
  readonly files: Readonly<Record<string, string>>;
}

const LANGUAGES: readonly Language[] = [
  {
    name: 'ruby',
    packages: ['ruby'],
    files: {
      'main.rb': 'require_relative "lib/count"\nputs "#{ARGV.join(" ")}: #{count(STDIN)}"\nexit 3\n',
      'lib/count.rb': 'def count(lines) = lines.each_line.count\n',
    },
  },
  {
    name: 'go',
    packages: ['golang-go'],
    files: {
      'main.go': `package main
import ("bufio"; "fmt"; "os"; "strings"; "example.org/count/lines")
func main() {
	fmt.Printf("%s: %d\\n", strings.Join(os.Args[1:], " "), lines.Count(bufio.NewScanner(os.Stdin)))
	os.Exit(3)
}
`,
      'lines/lines.go': `package lines
import "bufio"
func Count(scanner *bufio.Scanner) (count int) {
	for scanner.Scan() { count++ }
	return
}
`,
      'go.mod': 'module example.org/count\n\ngo 1.19\n',
    },
  },
  {
    name: 'rust',
    packages: ['rustc'],
    files: {
      'main.rs': `mod count;
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!("{}: {}", arguments.join(" "), count::lines());
    std::process::exit(3);
}
`,
      'count.rs': 'pub fn lines() -> usize { std::io::stdin().lines().count() }\n',
    },
  },
  {
    name: 'java',
    packages: ['default-jdk-headless'],
    files: {
      'Main.java': `import java.io.*;
public class Main {
  public static void main(String[] words) throws IOException {
    var lines = new BufferedReader(new InputStreamReader(System.in)).lines().count();
    System.out.println(String.join(" ", words) + ": " + lines);
    System.exit(3);
  }
}
`,
    },
  },
];

const RECIPES = join(ROOT, 'packages/control/src/runtimes/recipes');
const IMAGE_SCRIPT = fileURLToPath(new URL('debian-image.sh', import.meta.url));

async function debianLayer(directory: string, { name, packages }: Language): Promise<Buffer> {
  const file = join(directory, `${name}.tar`);
  await promisify(execFile)('bash', [IMAGE_SCRIPT, file, ...packages], { maxBuffer: 16 * 1024 * 1024 });
  const layer = readFileSync(file);
  rmSync(file);
  return layer;
}

describe('recipes on images of registries', () => {
  const directory = mkdtempSync(join(tmpdir(), 'cocore-e2e-runtimes-'));
  let registry: TestRegistry;
  let stack: Stack;

  before(async () => {
    registry = await startRegistry();
    const runtimes = join(directory, 'recipes');
    mkdirSync(runtimes);
    for (const { name } of LANGUAGES) {
      const recipe = JSON.parse(readFileSync(join(RECIPES, `${name}.json`), 'utf8')) as Record<string, unknown>;
      recipe['image'] = { reference: `${registry.host}/debian/${name}:latest` };
      writeFileSync(join(runtimes, `${name}.json`), JSON.stringify(recipe));
    }
    stack = await Stack.dev('--runtimes', runtimes);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  for (const language of LANGUAGES) {
    test(`${language.name}, a directory is run with its arguments and standard input, and ends as it does`, async () => {
      const layer = await debianLayer(directory, language);
      await push(registry.host, `debian/${language.name}`, image({ layers: [layer] }));
      const path = join(directory, `${language.name}-count`);
      for (const [name, content] of Object.entries(language.files)) {
        mkdirSync(dirname(join(path, name)), { recursive: true });
        writeFileSync(join(path, name), content);
      }
      const deployed = await stack.cocore(['deploy', path, '--memory', '1024', '--timeout', '300s']);
      assert.equal(deployed.code, 0, deployed.stderr);
      const record = await stack.client.functions.get(`${language.name}-count`);
      assert.equal(record.runtime, language.name);
      const ran = await stack.cocore(['run', `${language.name}-count`, 'two', 'words'], Buffer.from('a\nb\nc\n'));
      assert.deepEqual([ran.stdout.toString(), ran.code], ['two words: 3\n', 3], ran.stderr);
    });
  }
});
