/** The tokens of JSON that tell where a field is. */
const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|\n/g;

/**
 * The line, from 1, of the field that a path leads to in the text of a JSON document; of the nearest one around it where that is not there.
 *
 * @param text valid JSON
 */
export function lineOf(text: string, path: readonly string[]): number {
  /** Of each open object and array, the field that is being read. */
  const open: { isArray: boolean; at: string }[] = [];
  let line = 1;
  let found = { line: 1, depth: 0 };
  let isKey = false;
  for (const [token] of text.matchAll(TOKEN)) {
    const top = open.at(-1);
    if (token === '\n') line += 1;
    else if (token === '{' || token === '[') {
      open.push({ isArray: token === '[', at: '0' });
      isKey = token === '{';
    } else if (token === '}' || token === ']') open.pop();
    else if (token === ',') {
      isKey = top?.isArray === false;
      if (top?.isArray === true) top.at = String(Number(top.at) + 1);
    } else if (token !== ':' && isKey && top !== undefined) {
      isKey = false;
      top.at = JSON.parse(token) as string;
      const depth = open.length;
      if (depth > found.depth && open.every(({ at }, index) => at === path[index])) found = { line, depth };
    }
  }
  return found.line;
}
