import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CocoreError, PROJECT_FILE, ProjectFile } from '@cocore/protocol';
import { lineOf } from './json-lines.ts';

/** The directory's `cocore.json`; empty where it has none. @throws CocoreError `project_invalid`, `file_unreadable` */
export function readProjectFile(directory: string): ProjectFile {
  const path = join(directory, PROJECT_FILE);
  if (!existsSync(path)) return {};
  let text: string;
  try {
    text = readFileSync(path, 'utf8').replace(/^\ufeff/, '');
  } catch (cause) {
    throw new CocoreError('file_unreadable', `${path} cannot be read`, { cause });
  }
  const fail = (line: number, why: string) => new CocoreError('project_invalid', `${path}:${line}: ${why}`);
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    const message = (cause as Error).message;
    const position = Number(/at position (\d+)/.exec(message)?.[1] ?? text.length);
    throw fail(text.slice(0, position).split('\n').length, message.replace(/ in JSON at position.*$/s, ''));
  }
  const parsed = ProjectFile.safeParse(content);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const [unknown] = issue!.code === 'unrecognized_keys' ? issue.keys : [];
  const at = unknown === undefined ? issue!.path : [...issue!.path, unknown];
  const fields = Object.keys(ProjectFile.shape).filter((name) => !name.startsWith('$'));
  const why = unknown === undefined ? issue!.message : `there is no such field; there are ${fields.join(', ')}`;
  throw fail(lineOf(text, at.map(String)), [at.join('.'), why].filter((part) => part !== '').join(': '));
}
