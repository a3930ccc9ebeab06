/** Where a connection is to. */
export interface Destination {
  /** IPv4, as 32 bits without a sign. */
  readonly address: number;
  readonly port: number;
}
