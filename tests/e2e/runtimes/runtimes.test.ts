import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Recipe, type RecipeImage } from '@cocore/protocol';
import { image, push } from '../../../packages/control/test/importer/support/images.ts';
import { startRegistry, type TestRegistry } from '../../../packages/control/test/importer/support/registry.ts';
import { ROOT } from '../support/command.ts';
import { Stack, temporary } from '../support/stack.ts';
import { type Files, PROGRAMS, RUST_OF_TWO, SINGLE_FILES } from './programs.ts';

const RECIPES = join(ROOT, 'packages/control/src/runtimes/recipes');
const IMAGE_SCRIPT = fileURLToPath(new URL('debian-image.sh', import.meta.url));
/** Debian's packages of the languages whose recipes name images of registries. */
const PACKAGES = ['ruby', 'ruby-bundler', 'golang-go', 'rustc', 'cargo', 'default-jdk-headless'];
const LANGUAGES = ['ruby', 'go', 'rust', 'java'];
/** Of the memory, what functions and builds have by default. */
const OPTIONS = ['--timeout', '300s'];

/**
 * The recipes on images of registries, with their own commands, scripts and variables. Only the images are others: one of Debian's packages of the same
 * languages, from a registry on the loopback, because no test may depend on a registry of somebody else's. It is one, because making and importing it
 * takes longer than all that runs in it.
 */
describe('recipes on images of registries', { concurrency: 2 }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'cocore-e2e-runtimes-'));
  let registry: TestRegistry;
  let stack: Stack;

  before(async () => {
    registry = await startRegistry();
    const reference = await pushDebian();
    const runtimes = join(directory, 'recipes');
    mkdirSync(runtimes);
    for (const name of readdirSync(RECIPES).filter((file) => file.endsWith('.sh')))
      writeFileSync(join(runtimes, name), readFileSync(join(RECIPES, name)));
    const replaced = (of: RecipeImage) => ('reference' in of ? { reference } : of);
    for (const name of LANGUAGES) {
      const recipe = Recipe.parse(JSON.parse(readFileSync(join(RECIPES, `${name}.json`), 'utf8')));
      const build = { ...recipe.build!, image: replaced(recipe.build!.image!) };
      writeFileSync(
        join(runtimes, `${name}.json`),
        JSON.stringify({ ...recipe, image: replaced(recipe.image), build }),
      );
    }
    stack = await Stack.dev('--runtimes', runtimes);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  async function pushDebian(): Promise<string> {
    using home = temporary();
    const kept = join(home.env['COCORE_CACHE_DIR']!, 'test-images');
    const { stdout } = await promisify(execFile)('bash', [IMAGE_SCRIPT, kept, ...PACKAGES]);
    const layer = readFileSync(stdout.trim());
    const layerType = 'application/vnd.oci.image.layer.v1.tar';
    return push(registry.host, 'debian', image({ layers: [layer], layerType, compress: (archive) => archive }));
  }

  function write(name: string, files: Files): string {
    const path = join(directory, name);
    for (const [file, content] of Object.entries(files)) {
      mkdirSync(dirname(join(path, file)), { recursive: true });
      writeFileSync(join(path, file), content);
    }
    return path;
  }

  for (const { runtime, name, files } of PROGRAMS) {
    test(`${runtime}, a directory runs with what it depends on, which is built once`, async () => {
      const path = write(name, files);
      const first = await stack.cocore(['deploy', path, ...OPTIONS]);
      assert.equal(first.code, 0, first.stderr);
      assert.match(first.stderr, /^building$/m);
      assert.equal((await stack.client.functions.get(name)).runtime, runtime);
      const ran = await stack.cocore(['run', name, 'two', 'words'], Buffer.from('a\nb\nc\n'));
      assert.deepEqual([ran.stdout.toString(), ran.code], ['hello two words: 3\n', 3], ran.stderr);

      const second = await stack.cocore(['deploy', path, ...OPTIONS]);
      assert.equal(second.stdout.toString().split(' (')[0], `${name} version 2`);
      assert.doesNotMatch(second.stderr, /^building$/m);
    });
  }

  for (const [file, source] of Object.entries(SINGLE_FILES)) {
    test(`${file}, runs by itself`, async () => {
      const path = join(write('single', { [file]: source }), file);
      const name = file.replace('.', '-').toLowerCase();
      const deployed = await stack.cocore(['deploy', path, '--name', name, ...OPTIONS]);
      assert.equal(deployed.code, 0, deployed.stderr);
      const ran = await stack.cocore(['run', name, 'word']);
      assert.deepEqual([ran.stdout.toString(), ran.code], ['word\n', 0], ran.stderr);
    });
  }

  test('rust, a package of several programs, is that of the entry or is refused', async () => {
    const path = write('several', RUST_OF_TWO);
    const deploy = (entry: string) => stack.cocore(['deploy', path, '--entry', entry, ...OPTIONS]);
    const refused = await deploy('src/other.rs');
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /^error: Cargo.toml makes several programs \(one two\) and none is named several;/m);
    assert.match(refused.stderr, /^error build_failed: the build exited with 1; it is ex_\w+/m);
    const deployed = await deploy('src/bin/two.rs');
    assert.equal(deployed.code, 0, deployed.stderr);
    assert.equal((await stack.cocore(['run', 'several'])).stdout.toString(), 'two\n');
  });
});
