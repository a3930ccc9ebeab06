import { z } from 'zod';
import { CocoreError, type ErrorCode, isErrorCode } from './errors.ts';

/** An error over HTTP: RFC 9457, media type `application/problem+json`. */
export const Problem = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
  /** One line that says what to do. */
  remedy: z.string(),
  retryable: z.boolean(),
  requestId: z.string().optional(),
  details: z.record(z.string(), z.unknown()).optional(),
});
export type Problem = z.infer<typeof Problem>;

export function problemOf(error: CocoreError, requestId?: string): Problem {
  return {
    type: `urn:cocore:error:${error.code}`,
    title: error.code.replaceAll('_', ' '),
    status: error.status === 0 ? 500 : error.status,
    code: error.code,
    detail: error.message,
    remedy: error.remedy,
    retryable: error.retryable,
    ...(requestId === undefined ? {} : { requestId }),
    ...(Object.keys(error.details).length === 0 ? {} : { details: error.details }),
  };
}

/** The error that a problem document describes; a code that this version does not know becomes `internal`. */
export function errorOfProblem(problem: Problem): CocoreError {
  const code: ErrorCode = isErrorCode(problem.code) ? problem.code : 'internal';
  return new CocoreError(code, problem.detail, { details: { ...problem.details, requestId: problem.requestId } });
}

const MAX_FIELDS = 20;
const MAX_FIELD_LENGTH = 300;

/** A message can name every unknown field of a large body. */
const cut = (text: string): string => (text.length <= MAX_FIELD_LENGTH ? text : `${text.slice(0, MAX_FIELD_LENGTH)}…`);

/**
 * Turns any schema failure into the one line that names the bad fields, the first twenty of them.
 *
 * @param what begins the message: `the body`
 */
export function invalidRequest(error: z.ZodError, what = 'the request'): CocoreError {
  const fields = error.issues
    .slice(0, MAX_FIELDS)
    .map((issue) => ({ path: cut(issue.path.join('.')), message: cut(issue.message) }));
  const text = fields.map(({ path, message }) => (path === '' ? message : `${path}: ${message}`)).join('; ');
  return new CocoreError('invalid_request', `${what} is not valid: ${text}`, { details: { fields } });
}
