/** Codes of the closed table that an import can end with. */
export type FailureCode =
  'image_unknown' | 'image_digest' | 'image_too_large' | 'image_refused' | 'importer_unavailable';

/** Why an image cannot be imported, in words for the one who asked. */
export class ImportFailure extends Error {
  readonly code: FailureCode;

  constructor(code: FailureCode, message: string) {
    super(message);
    this.name = 'ImportFailure';
    this.code = code;
  }
}

/** Text of a stranger as one short line that is safe to show. */
export function shown(text: string, maxLength = 200): string {
  const line = text.replace(/[^\x20-\x7e]+/g, '?');
  return line.length > maxLength ? `${line.slice(0, maxLength)}…` : line;
}
