import { CocoreError } from '@cocore/protocol';

/** `__proto__`, and any letter of it in disguise. */
const SUSPICIOUS = /__proto__|\\u00(?:5f|6f|7[024])/i;
const DECODER = new TextDecoder('utf-8', { fatal: true });

/**
 * One JSON document in UTF-8. An empty body is no document (`undefined`).
 *
 * @throws CocoreError `invalid_text` for bytes that are not UTF-8, `invalid_json` for text that is not JSON
 */
export function parseJsonBody(body: Uint8Array): unknown {
  if (body.length === 0) return undefined;
  let text: string;
  try {
    text = DECODER.decode(body);
  } catch (cause) {
    throw new CocoreError('invalid_text', 'the body is not valid UTF-8', { cause });
  }
  try {
    // A field of this name would be lost on the way, not refused.
    return SUSPICIOUS.test(text) ? JSON.parse(text, refuseProto) : JSON.parse(text);
  } catch (cause) {
    if (cause instanceof CocoreError) throw cause;
    throw new CocoreError('invalid_json', 'the body is not a JSON document', { cause });
  }
}

function refuseProto(name: string, value: unknown): unknown {
  if (name === '__proto__') throw new CocoreError('invalid_request', 'the body is not valid: __proto__ is not a name');
  return value;
}
