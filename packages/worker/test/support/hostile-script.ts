import { encodeGuestFrame, type GuestFrame } from '@cocore/protocol';

/**
 * What a hostile guest does, as lines of text on its code drive. `guest/hostile` plays them in a microVM, `HostileGuest` in the fake driver. Pings
 * are answered from the greeting on, and what comes is read, until a step says otherwise, and after the last step.
 *
 * | step | what it does |
 * | --- | --- |
 * | `hello VERSION HEX` | waits for the host's HELLO and answers it, with that version, and in the same write with these bytes |
 * | `expect TYPE` | waits for a frame of the host's of that type |
 * | `send HEX` | writes these bytes |
 * | `data STREAM OFFSET LENGTH` | writes one frame of output (stream 1 or 2) |
 * | `output STREAM LENGTH COUNT` | writes frames of output, gapless, whatever was acknowledged; for ever where COUNT is 0 |
 * | `repeat HEX` | writes these bytes for ever, many at a time |
 * | `drip HEX` | writes these bytes for ever, one at a time |
 * | `echo` | writes back what comes, for ever |
 * | `deaf` | reads no more |
 * | `dumb` | answers no more pings |
 * | `guess MS` | answers pings that it has not read, one each MS, for ever |
 * | `print` | prints terminal codes on the console for ever |
 * | `close` | closes its port, and lives on |
 * | `poweroff` | ends the machine |
 * | `unopened` | as the first step: the port is never opened, where the drive is there at boot; else nobody answers on it |
 */
export type Script = readonly string[];

const HEAD = 'cocore-hostile\n';
/** What the guest reads of the drive. */
const SCRIPT_BYTES = 65_536;

/** The drive with a script: its steps, one a line; an empty line ends them. */
export function scriptDrive(script: Script): Buffer {
  const text = `${HEAD}${script.map((step) => `${step}\n`).join('')}\n`;
  if (text.length > SCRIPT_BYTES) throw new RangeError('a script is too long');
  return Buffer.concat([Buffer.from(text)], SCRIPT_BYTES);
}

export function scriptOf(drive: Buffer): Script {
  const text = drive.toString('latin1');
  if (!text.startsWith(HEAD)) throw new Error('the drive has no script');
  const lines = text.slice(HEAD.length).split('\n');
  return lines.slice(0, lines.indexOf(''));
}

export const bytes = (...values: number[]): string => Buffer.from(values).toString('hex');

export const frames = (...all: GuestFrame[]): string =>
  Buffer.concat(all.map((frame) => encodeGuestFrame(frame))).toString('hex');
