/** Prints the rows of `docs/reference/errors.md` from the table of codes. */
import { ERRORS } from '@cocore/protocol';

for (const [code, { status, retryable, remedy }] of Object.entries(ERRORS)) {
  console.log(`| \`${code}\` | ${status === 0 ? '–' : status} | ${retryable ? 'yes' : 'no'} | ${remedy} |`);
}
