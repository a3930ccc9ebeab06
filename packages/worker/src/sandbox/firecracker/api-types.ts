/**
 * The bodies of Firecracker's API that the driver sends and reads, field for field as the official description has them; tests check every
 * request against it.
 */
export interface BootSource {
  readonly kernel_image_path: string;
  readonly initrd_path?: string;
  readonly boot_args?: string;
}

/** `size` tokens at most, as many again every `refill_time` milliseconds. */
export interface TokenBucket {
  readonly size: number;
  readonly refill_time: number;
  readonly one_time_burst?: number;
}

export interface RateLimiter {
  /** A token is a byte. */
  readonly bandwidth?: TokenBucket;
  /** A token is an operation. */
  readonly ops?: TokenBucket;
}

export interface Drive {
  readonly drive_id: string;
  readonly is_root_device: boolean;
  readonly is_read_only: boolean;
  readonly path_on_host: string;
  readonly cache_type?: 'Unsafe' | 'Writeback';
  readonly io_engine?: 'Sync' | 'Async';
  readonly rate_limiter?: RateLimiter;
}

export interface PartialDrive {
  readonly drive_id: string;
  readonly path_on_host?: string;
  readonly rate_limiter?: RateLimiter;
}

export interface NetworkInterface {
  readonly iface_id: string;
  /** A tap, in the monitor's network namespace. */
  readonly host_dev_name: string;
  readonly guest_mac?: string;
  readonly rx_rate_limiter?: RateLimiter;
  readonly tx_rate_limiter?: RateLimiter;
}

export interface MachineConfiguration {
  readonly vcpu_count: number;
  readonly mem_size_mib: number;
  readonly smt: boolean;
  readonly track_dirty_pages: boolean;
}

export interface Vsock {
  /** From 3 on: 2 is the host. */
  readonly guest_cid: number;
  readonly uds_path: string;
}

export interface EntropyDevice {
  readonly rate_limiter?: RateLimiter;
}

export interface SerialDevice {
  readonly rate_limiter?: TokenBucket;
}

export interface Metrics {
  readonly metrics_path: string;
}

export type Action = 'FlushMetrics' | 'InstanceStart' | 'SendCtrlAltDel';

export interface SnapshotCreateParams {
  readonly snapshot_path: string;
  readonly mem_file_path: string;
  readonly snapshot_type: 'Full' | 'Diff';
}

export interface SnapshotLoadParams {
  readonly snapshot_path: string;
  readonly mem_backend: { readonly backend_type: 'File' | 'Uffd'; readonly backend_path: string };
  readonly resume_vm: boolean;
}

export interface InstanceInfo {
  readonly id: string;
  readonly state: 'Not started' | 'Running' | 'Paused';
  readonly vmm_version: string;
}
