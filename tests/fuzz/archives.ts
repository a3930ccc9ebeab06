import { pax, tar } from '../../packages/control/test/support/tar.ts';

/** Of code, as a user sends it, and of what a function leaves. */
export const ARCHIVES: readonly Uint8Array[] = [
  tar([
    { name: 'd/', flag: '5' },
    { name: 'd/a.sh', content: 'echo', mode: 0o755 },
    { name: 'l', flag: '2', link: 'd/a.sh' },
  ]),
  tar([
    pax({ path: 'long/é', size: '3' }),
    { name: 'x', content: 'abc' },
    { name: 'longer', flag: 'L', content: 'name\0' },
    { name: 'y' },
  ]),
];
