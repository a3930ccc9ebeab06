import { z } from 'zod';
import type { InsideMessage } from './inside/messages.ts';

/** The longest line that the inside may write, in bytes. */
export const MAX_LINE_BYTES = 4 * 1024 * 1024;

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const id = z.number().int().min(0).max(65_535);
const text = z.string().max(1024 * 1024);

const config = z.strictObject({
  entrypoint: z.array(text).max(10_000),
  command: z.array(text).max(10_000),
  environment: z.array(text).max(10_000),
  workingDirectory: text,
  user: z.strictObject({ uid: id, gid: id, additionalGids: z.array(id).max(65_536), home: text }),
  stopSignal: text.nullable(),
});

/** The inside reads strangers' bytes, so what it says is a stranger's word. */
export const InsideMessageSchema: z.ZodType<InsideMessage> = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('progress'),
    phase: z.enum(['resolving', 'pulling', 'unpacking', 'packing']),
    bytes: count,
    totalBytes: count,
    layers: count,
    totalLayers: count,
  }),
  z.strictObject({ type: z.literal('resolved'), indexDigest: digest, manifestDigest: digest }),
  z.strictObject({ type: z.literal('verified'), digest, bytes: count }),
  z.strictObject({ type: z.literal('spoiled'), digest }),
  z.strictObject({ type: z.literal('done'), config }),
  z.strictObject({ type: z.literal('failed'), code: z.string().max(64), message: z.string().max(4096) }),
]);

export { config as ImageConfigSchema };
