/** One thing that a host has or lacks, for `cocore doctor`. */
export interface HostCheck {
  readonly name: string;
  readonly ok: boolean;
  /** What was found; for a failed check, why it failed. */
  readonly reason: string;
  /** What the owner can do; null when nothing is needed. */
  readonly remedy: string | null;
}

export const passed = (name: string, reason: string): HostCheck => ({ name, ok: true, reason, remedy: null });
export const failed = (name: string, reason: string, remedy: string): HostCheck => ({
  name,
  ok: false,
  reason,
  remedy,
});
