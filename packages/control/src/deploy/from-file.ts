import { CocoreError, fromBase64, type FunctionDeploy, MAX_CODE_BYTES } from '@cocore/protocol';
import { CodeTree } from '../code/code-tree.ts';
import { Content } from '../code/content.ts';
import type { Code } from './from-code.ts';

/** One file, as the request carries it. @throws CocoreError `code_invalid`, `input_too_large` */
export function codeOfFile({ name, contentBase64 }: NonNullable<FunctionDeploy['file']>): Code {
  const content = fromBase64(contentBase64);
  if (content.length === 0) throw new CocoreError('code_invalid', `the file ${name} is empty`);
  if (content.length > MAX_CODE_BYTES) {
    throw new CocoreError(
      'input_too_large',
      `the code has ${content.length} bytes; at most ${MAX_CODE_BYTES} are taken`,
    );
  }
  return {
    source: { kind: 'file', name },
    entry: name,
    read: () => {
      const tree = new CodeTree();
      tree.add(name, { kind: 'file', content: Content.of(content), isExecutable: true });
      return Promise.resolve(tree);
    },
  };
}
