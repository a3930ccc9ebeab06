/** `npm run bench -- NAME`: measurements. They print and assert nothing; see bench/README.md. */
const BENCHES: Record<string, () => Promise<unknown>> = {
  smoke: () => import('../bench/smoke.ts'),
  start: () => import('../bench/start.ts'),
  images: () => import('../bench/images.ts'),
  reaction: () => import('../bench/reaction.ts'),
  network: () => import('../bench/network.ts'),
  peers: () => import('../bench/peers.ts'),
  history: () => import('../bench/history.ts'),
  connections: () => import('../bench/connections.ts'),
  fleet: () => import('../bench/fleet.ts'),
  output: () => import('../bench/output.ts'),
  followers: () => import('../bench/followers.ts'),
};

const [name] = process.argv.slice(2);
const bench = name === undefined ? undefined : BENCHES[name];
if (bench === undefined) {
  console.error(`error: give one of these benches: ${Object.keys(BENCHES).join(', ')}`);
  process.exitCode = 2;
} else {
  await bench();
}
