/** Of places from 0 on, how many are below; those that are come before those that are not. */
export function countBelow(length: number, isBelow: (place: number) => boolean): number {
  let [from, to] = [0, length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (isBelow(middle)) from = middle + 1;
    else to = middle;
  }
  return from;
}
