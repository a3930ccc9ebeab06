import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { CocoreError, type RuntimeRecord } from '@cocore/protocol';
import { BUILT_IN_SURROUNDINGS, buildProcessOf, processOf } from '../src/runtimes/recipe.ts';
import { Recipes } from '../src/runtimes/recipes.ts';
import { temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';

const PERL = {
  name: 'perl',
  extensions: ['.pl'],
  interpreters: ['perl'],
  image: { builtIn: 'base' },
  program: ['/usr/bin/perl', '{entry}', '--code={code}'],
  handler: { command: ['/usr/bin/perl', '{code}/.cocore/h.pl', '{entry}', '{handler}'], bootstrap: 'h.pl' },
  env: { PERL5LIB: '/function' },
};

describe('recipes', () => {
  test('those that are built in, are seven languages, two of which run handlers', () => {
    const recipes = Recipes.load(null);
    const names = recipes.list().map(({ name }) => name);
    assert.deepEqual(names, ['bash', 'go', 'java', 'node', 'python', 'ruby', 'rust']);
    const handlers = recipes.list().filter((runtime) => runtime.handlers);
    assert.deepEqual(
      handlers.map(({ name }) => name),
      ['node', 'python'],
    );
    assert.deepEqual(recipes.named('node').recipe.image, { builtIn: 'node' });
    for (const name of names) {
      const { recipe, buildScript } = recipes.named(name);
      assert.equal(recipe.build?.command[1], name === 'bash' ? undefined : `{code}/.cocore/build-${name}.sh`);
      assert.equal(buildScript === null, name === 'bash', name);
    }
    assert.throws(() => recipes.named('cobol'), /there is no runtime cobol; there are bash, go, java/);
  });

  test('an operator’s, is one more and comes first', () => {
    using directory = temporaryDirectory();
    const build = { command: ['/bin/sh', '{code}/.cocore/b.sh', '{entry}'], script: 'b.sh' };
    writeFileSync(join(directory.path, 'perl.json'), JSON.stringify({ ...PERL, build }));
    writeFileSync(join(directory.path, 'h.pl'), 'handler');
    writeFileSync(join(directory.path, 'b.sh'), 'build');
    const recipes = Recipes.load(directory.path);
    assert.equal(recipes.list()[0]!.name, 'perl');
    const { recipe, bootstrap, buildScript } = recipes.named('perl');
    assert.equal(Buffer.from(bootstrap!).toString(), 'handler');
    assert.equal(Buffer.from(buildScript!).toString(), 'build');
    assert.deepEqual(buildProcessOf(recipe, recipe.build!.command, 'lib/a.pl', BUILT_IN_SURROUNDINGS).argv, [
      '/bin/sh',
      '/function/.cocore/b.sh',
      '/function/lib/a.pl',
    ]);
    const program = processOf(recipe, 'lib/a.pl', null, BUILT_IN_SURROUNDINGS);
    assert.deepEqual(program.argv, ['/usr/bin/perl', '/function/lib/a.pl', '--code=/function']);
    assert.equal(program.env['PERL5LIB'], '/function');
    assert.equal(program.env['HOME'], '/work');
    const handler = processOf(recipe, 'lib/a.pl', '$&{code}', BUILT_IN_SURROUNDINGS);
    assert.deepEqual(handler.argv, ['/usr/bin/perl', '/function/.cocore/h.pl', '/function/lib/a.pl', '$&{code}']);
  });

  test('an operator’s of a name that is built in, takes its place', () => {
    using directory = temporaryDirectory();
    const image = { reference: 'registry.example/python:3.14' };
    writeFileSync(
      join(directory.path, 'p.json'),
      JSON.stringify({ ...PERL, name: 'python', image, handler: undefined }),
    );
    const recipes = Recipes.load(directory.path);
    assert.deepEqual(recipes.named('python').recipe.image, image);
    assert.equal(recipes.list().filter(({ name }) => name === 'python').length, 1);
  });

  const bad: [string, Record<string, string>, RegExp][] = [
    ['broken JSON', { 'a.json': '{"name": }' }, /a\.json: .*JSON/],
    ['an unknown field', { 'a.json': JSON.stringify({ ...PERL, colour: 1 }) }, /a\.json: .*colour/],
    ['no program', { 'a.json': JSON.stringify({ ...PERL, program: [] }) }, /a\.json: program: /],
    [
      'an image that is not built',
      { 'a.json': JSON.stringify({ ...PERL, image: { builtIn: 'perl' } }) },
      /a\.json: image: /,
    ],
    [
      'an extension without its dot',
      { 'a.json': JSON.stringify({ ...PERL, extensions: ['pl'] }) },
      /extensions: 0: must be a dot/,
    ],
    [
      'a bootstrap that is not there',
      { 'a.json': JSON.stringify(PERL) },
      /a\.json: its bootstrap h\.pl cannot be read/,
    ],
    [
      'a build script that is not there',
      { 'a.json': JSON.stringify({ ...PERL, build: { command: ['/bin/sh'], script: 'b.sh' } }), 'h.pl': 'x' },
      /a\.json: its build script b\.sh cannot be read/,
    ],
    [
      'a bootstrap elsewhere',
      { 'a.json': JSON.stringify({ ...PERL, handler: { ...PERL.handler, bootstrap: '../x' } }) },
      /plain file name/,
    ],
    [
      'one name twice',
      { 'a.json': JSON.stringify(PERL), 'b.json': JSON.stringify(PERL), 'h.pl': 'x' },
      /b\.json: .*a\.json has the name perl too/,
    ],
  ];
  for (const [what, files, message] of bad) {
    test(`${what}, is refused with the file and the reason`, () => {
      using directory = temporaryDirectory();
      for (const [name, content] of Object.entries(files)) writeFileSync(join(directory.path, name), content);
      assert.throws(
        () => Recipes.load(directory.path),
        (error) => error instanceof CocoreError && error.code === 'recipe_invalid' && message.test(error.message),
      );
    });
  }

  test('a directory that is not there, is refused', () => {
    assert.throws(
      () => Recipes.load('/nothing'),
      (error) => error instanceof CocoreError && error.code === 'file_unreadable',
    );
  });

  test('a server, lists its runtimes to whoever has a key, and does not start with a bad recipe', async () => {
    using directory = temporaryDirectory();
    writeFileSync(join(directory.path, 'perl.json'), JSON.stringify(PERL));
    await assert.rejects(TestServer.start({ recipesDirectory: directory.path }), { code: 'recipe_invalid' });
    writeFileSync(join(directory.path, 'h.pl'), 'handler');
    await using server = await TestServer.start({ recipesDirectory: directory.path });
    const { body } = await server.call<{ runtimes: RuntimeRecord[] }>('GET', '/v1/runtimes');
    assert.deepEqual(body.runtimes[0], {
      name: 'perl',
      extensions: ['.pl'],
      interpreters: ['perl'],
      entries: [],
      manifest: null,
      handlers: true,
    });
    assert.equal((await server.call('GET', '/v1/runtimes', { key: null })).status, 401);
  });
});
