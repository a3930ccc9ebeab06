export const mean = async (numbers: readonly number[]): Promise<number> =>
  Promise.resolve(numbers.reduce((sum, number) => sum + number, 0) / numbers.length);
