import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/** As Firecracker opens one. Node has no `ioctl`. */
const OPEN = `
import fcntl, os, struct, sys
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
TUNSETIFF = 0x400454CA
name = sys.argv[1]
said = lambda error: f"{os.strerror(error.errno)} (os error {error.errno})"
try: tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
except OSError as error: sys.exit(f"Couldn't open /dev/net/tun: {said(error)}")
if len(name.encode()) >= 16: sys.exit("Invalid interface name")
try: fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
except OSError as error:
    advice = "Check our documentation on setting up the network devices."
    sys.exit(f"Error while creating ifreq structure: {said(error)}. Invalid TUN/TAP Backend provided by {name}. {advice}")
`;

/**
 * Opens a tap, and lets go of it: QEMU opens it again. Whoever may make one makes it by this, and it is gone with it.
 *
 * @throws Error in Firecracker's words
 */
export async function tryTap(name: string): Promise<void> {
  await promisify(execFile)('/usr/bin/python3', ['-I', '-S', '-c', OPEN, name]).catch(
    (error: Error & { stderr?: string }) => {
      throw new Error(error.stderr?.trim() || error.message);
    },
  );
}

/** What Firecracker says of a tap that it holds already. */
export const heldTap = (name: string): string =>
  `Error while creating ifreq structure: Device or resource busy (os error 16). Invalid TUN/TAP Backend provided by ${name}. Check our documentation on setting up the network devices.`;
