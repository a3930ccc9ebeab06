/** What one attempt may hold of the daemon's memory, whatever its guest does: windows and backlogs are less than 3 MiB. A flood is a multiple. */
export const MAX_HELD_BYTES = 6 * 2 ** 20;

/** The longest that other work of the daemon waits, on a machine that may be busy with other tests. */
export const MAX_STALLED_MS = 2_000;

/** What an end may take once it is due, the sandbox's removal among it: only a hang is later, on a machine however busy. What is promised, other tests hold. */
export const SLACK_MS = 20_000;
