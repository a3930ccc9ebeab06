import { access, constants } from 'node:fs/promises';
import { failed, type HostCheck, passed } from '../host/check.ts';
import { checkProgram, checkRoot, firstLine } from '../host/probes.ts';
import { bareWire } from './bare-wire.ts';
import { GATE } from './gate.ts';
import { OwnAddresses } from './own-addresses.ts';

/** Whether functions can be given a network here. Where nothing is missing, a gate is opened with each kind of wire. */
export async function probeNetwork(program: string = GATE, tun = '/dev/net/tun'): Promise<HostCheck[]> {
  const checks = await Promise.all([
    checkRoot('networks are made by root, and each gate then runs as a user of its own'),
    checkProgram('nft', 'nftables'),
    checkGate(program),
    checkTun(tun),
    checkRoutes(),
  ]);
  if (checks.some((check) => !check.ok)) return checks;
  return [...checks, await tryWire('veth', program), await tryWire('tap', program)];
}

async function checkGate(program: string): Promise<HostCheck> {
  try {
    await access(program, constants.X_OK);
    return passed('gate', program);
  } catch {
    return failed('gate', `${program} is not there`, 'Run npm run setup in the checkout.');
  }
}

/** By it the gate makes the tap of a machine; the machine's monitor has a node of its own in its jail. */
async function checkTun(path: string): Promise<HostCheck> {
  try {
    await access(path, constants.R_OK | constants.W_OK);
    return passed('tun', `${path} may be opened`);
  } catch (error) {
    const remedy = 'Load the module (modprobe tun); a daemon in a container needs the device given to it.';
    return failed('tun', `${path} may not be opened: ${firstLine(error)}`, remedy);
  }
}

async function checkRoutes(): Promise<HostCheck> {
  try {
    new OwnAddresses().includes(0);
    return passed('routes', 'this host’s own networks can be told');
  } catch (error) {
    return failed('routes', firstLine(error), 'A function with a network needs /proc/net/fib_trie.');
  }
}

const REMEDY =
  'The kernel needs network namespaces, veth, tun, and nftables with tproxy; a daemon in a container needs them allowed, and /proc/sys/net writable.';

async function tryWire(kind: 'veth' | 'tap', program: string): Promise<HostCheck> {
  const name = `network by ${kind}`;
  try {
    await using _attached = await bareWire(program).attach({ kind, owner: 0, procsFiles: [] });
    return passed(name, 'a gate was opened');
  } catch (error) {
    return failed(name, firstLine(error), REMEDY);
  }
}
