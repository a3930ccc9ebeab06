import { constants } from 'node:os';

const SIGRTMIN = 34;
const SIGRTMAX = 64;

/** The number of a signal as images write it (`SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+2`); undefined for what is none. */
export function signalNumber(text: string): number | undefined {
  if (/^\d{1,2}$/.test(text)) return inRange(Number(text));
  const name = text.toUpperCase().replace(/^(?!SIG)/, 'SIG');
  const realTime = /^SIGRT(?:MIN\+(\d{1,2})|MAX-(\d{1,2})|(MIN|MAX))$/.exec(name);
  if (realTime === null) return Object.hasOwn(constants.signals, name) ? signals[name] : undefined;
  const [, above, below, end] = realTime;
  if (above !== undefined) return inRange(SIGRTMIN + Number(above));
  return below === undefined ? (end === 'MIN' ? SIGRTMIN : SIGRTMAX) : inRange(SIGRTMAX - Number(below));
}

const signals: Readonly<Record<string, number>> = constants.signals;
const inRange = (number: number) => (number >= 1 && number <= SIGRTMAX ? number : undefined);
