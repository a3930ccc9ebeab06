import { CocoreError, JoinTokenContent } from '@cocore/protocol';

/** A join token as it came, and what it says about the server. */
export interface JoinToken {
  readonly text: string;
  readonly content: JoinTokenContent;
}

const PREFIX = 'cj_';

/** @throws CocoreError `join_token_invalid` */
export function parseJoinToken(text: string): JoinToken {
  const token = text.trim();
  const invalid = (cause?: unknown) => new CocoreError('join_token_invalid', 'this is not a join token', { cause });
  if (!token.startsWith(PREFIX)) throw invalid();
  try {
    const json = Buffer.from(token.slice(PREFIX.length), 'base64url').toString('utf8');
    return { text: token, content: JoinTokenContent.parse(JSON.parse(json)) };
  } catch (cause) {
    throw invalid(cause);
  }
}
