/** `npm run bench -- NAME`: measurements. They print and assert nothing; see bench/README.md. */
const BENCHES: Record<string, () => Promise<unknown>> = {
  smoke: () => import('../bench/smoke.ts'),
  start: () => import('../bench/start.ts'),
  images: () => import('../bench/images.ts'),
};

const [name] = process.argv.slice(2);
const bench = name === undefined ? undefined : BENCHES[name];
if (bench === undefined) {
  console.error(`error: give one of these benches: ${Object.keys(BENCHES).join(', ')}`);
  process.exitCode = 2;
} else {
  await bench();
}
