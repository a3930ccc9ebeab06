import { z } from 'zod';
import { CodePath, Environment, RuntimeName } from './api.ts';
import { MAX_EGRESS_TARGETS } from './limits.ts';
import { EgressTarget } from './network.ts';

/**
 * Recipes: how source code of one language becomes a process. Each is a JSON document, so another language is another document. In the words of its
 * commands `{entry}` stands for the path of the file that is run, `{code}` for the directory of the code, and `{handler}` for the handler's name.
 */

const Command = z.array(z.string().min(1).max(4096)).min(1).max(64);
const FileName = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$/, 'must be a plain file name');

/** Root file systems that the set-up builds, with no registry: `base` has bash and Python, `node` has Node beside them. */
export const BuiltInImage = z.enum(['base', 'node']);
export type BuiltInImage = z.infer<typeof BuiltInImage>;

/** An image of a registry is pinned by each version that is deployed. */
const RecipeImage = z.union([
  z.strictObject({ builtIn: BuiltInImage }),
  /** As `docker pull` takes it; pulled without credentials. */
  z.strictObject({ reference: z.string().min(1).max(512) }),
]);
export type RecipeImage = z.infer<typeof RecipeImage>;

/** The file that a build leaves: a tar archive, of whatever the command put into it. */
export const LAYER_NAME = 'layer.tar';

/**
 * What is done with code when it is deployed, before anything of it runs: dependencies are installed, a program is compiled. It is an execution
 * in a sandbox of its own, that finds the code at `{code}` and leaves a tar archive at `$COCORE_OUT/layer.tar`. The same build is not done twice.
 */
const Build = z.strictObject({
  /** It is done where the code has one of these files, with this field in it where one is named. Without it, it is always done. */
  when: z
    .array(z.strictObject({ file: FileName, field: z.string().min(1).max(64).optional() }))
    .max(32)
    .optional(),
  /** Who brings one of these has done it. */
  unless: z.array(CodePath).max(32).default([]),
  /** What of the code it is shown, and is done anew for: paths with `*` for any part of a name; all that a directory holds. Without it, all of it. */
  inputs: z.array(CodePath).max(64).optional(),
  /** What it runs in, where that is another image than the function's. */
  image: RecipeImage.optional(),
  command: Command,
  /** The registries that it may reach, where a worker gives it a network; it has none where the code has one of `unless`. */
  network: z
    .strictObject({
      allow: z.array(EgressTarget).min(1).max(MAX_EGRESS_TARGETS),
      unless: z.array(CodePath).max(32).default([]),
    })
    .optional(),
  /** A file beside this document that the command runs; it finds it as `{code}/.cocore/` and its name, which the function does not have. */
  script: FileName.optional(),
  /** Where in the code's directory what it made is put, such as `node_modules`; without it, beside the code. */
  into: CodePath.optional(),
});

export const Recipe = z.strictObject({
  $schema: z.string().optional(),
  name: RuntimeName,
  /** How names of its files end, such as `.py`. */
  extensions: z
    .array(z.string().regex(/^\.[A-Za-z0-9]{1,15}$/, 'must be a dot, then letters and digits'))
    .max(32)
    .default([]),
  /** Programs that a file's first line may name, without path and version: `python` is `/usr/bin/python3.12` too. */
  interpreters: z.array(FileName).max(32).default([]),
  /** Files that a directory is run by when it says nothing else. */
  entries: z.array(CodePath).max(32).default([]),
  /** A document in the directory with a field that names the file, where it is there: `package.json` and `main`. */
  manifest: z.strictObject({ file: FileName, field: z.string().min(1).max(64) }).optional(),
  /** What it runs in. */
  image: RecipeImage,
  build: Build.optional(),
  /** Starts a file as a program; the execution's arguments follow. */
  program: Command,
  /** Starts a file as a handler; a language without it runs programs only. */
  handler: z
    .strictObject({
      command: Command,
      /** A file beside this document that speaks with the handler; the command finds it as `{code}/.cocore/` and its name. */
      bootstrap: FileName,
    })
    .optional(),
  /** Beside what the image brings; the function's and the execution's variables win. */
  env: Environment.default({}),
});
export type Recipe = z.infer<typeof Recipe>;

/** The part of a recipe by which the command tells what runs a file. */
export const RuntimeRecord = z.object({
  name: RuntimeName,
  extensions: z.array(z.string()),
  interpreters: z.array(z.string()),
  entries: z.array(z.string()),
  manifest: z.object({ file: z.string(), field: z.string() }).nullable(),
  /** Whether it runs handlers. */
  handlers: z.boolean(),
});
export type RuntimeRecord = z.infer<typeof RuntimeRecord>;

/** `GET /v1/runtimes`: the server's runtimes; where two fit, the first does. */
export const RuntimeList = z.object({ runtimes: z.array(RuntimeRecord) });
