import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultArtifacts } from '../../packages/worker/src/config.ts';

/** What the workers of a round run functions in: the driver that has no host, or one with real sandboxes. */
export const SANDBOXES = ['fake', 'crun', 'gvisor', 'qemu', 'firecracker'] as const;
export type Sandboxes = (typeof SANDBOXES)[number];

/** What one worker leases, so that it runs so many at once, and what a function needs. */
export interface Lease {
  readonly slots: number;
  readonly memoryMiB: number;
}

export const FUNCTION_MEMORY_MIB = 128;

export const leaseOf = (sandboxes: Sandboxes): Lease =>
  sandboxes === 'fake' ? { slots: 3, memoryMiB: 3 * FUNCTION_MEMORY_MIB } : { slots: 1, memoryMiB: 1024 };

/** The built-in images: those of the set-up, or a file that no fake sandbox looks into. */
export function artifactsOf(sandboxes: Sandboxes, directory: string): string {
  if (sandboxes !== 'fake') return defaultArtifacts(process.env);
  const image = join(directory, 'image');
  writeFileSync(image, 'an image that no fake sandbox looks into');
  const path = join(directory, 'artifacts.json');
  writeFileSync(path, JSON.stringify({ baseImage: image, nodeImage: image }));
  return path;
}

/**
 * Plays its arguments as the fake driver does, as far as jobs have them. It has no network and so no effect on the world that could be counted:
 * `effect` does nothing.
 */
const PLAYER = `
import hashlib, sys, time
for step in sys.argv[1:]:
    kind, *rest = step.split(":")
    if kind == "lines":
        for number in range(1, int(rest[1]) + 1):
            digest = hashlib.sha256(f"{rest[0]}/{number}".encode()).hexdigest()
            sys.stdout.write(f"{number} {digest[:16]}\\n")
            if int(rest[2]) > 0:
                sys.stdout.flush()
                time.sleep(int(rest[2]) / 1000)
        sys.stdout.flush()
    elif kind == "sleep":
        time.sleep(int(rest[0]) / 1000)
    elif kind == "exit":
        sys.exit(int(rest[0]))
`;

/** The function that plays its arguments. */
export const playerOf = (sandboxes: Sandboxes, name: string) =>
  sandboxes === 'fake'
    ? ({ runtime: 'bash', file: fileOf(`${name}.sh`, 'exit 0\n') } as const)
    : ({ runtime: 'python', file: fileOf(`${name}.py`, PLAYER) } as const);

const fileOf = (name: string, text: string) => ({ name, contentBase64: Buffer.from(text).toString('base64') });
