import { accessSync, constants, openSync, writeSync } from 'node:fs';
import type { ApiDescription } from './api-description.ts';
import { HybridVsock } from './hybrid-vsock.ts';
import { type Settings, VERSION } from './place.ts';
import { type MachineCard, type MachineConfig, type MachineDrive, QemuMachine } from './qemu-machine.ts';
import { loadMachine, type NetworkOverride, saveMachine } from './snapshot.ts';
import { heldTap, tryTap } from './tap.ts';

export interface Answer {
  readonly status: number;
  readonly body?: object;
}

/** Ways in which the double can be told to fail, by `DOUBLE_FAULT`. */
export type Fault =
  'no-socket' | 'refuse-vsock' | 'error-at-start' | 'die-at-start' | 'end-after-start' | 'no-boot' | 'no-answer';

const POST_BOOT = 'The requested operation is not supported after starting the microVM.';
const PRE_BOOT = 'The requested operation is not supported before starting the microVM.';

const done: Answer = { status: 204 };
const refused = (message: string): Answer => ({ status: 400, body: { fault_message: message } });

type Body = Readonly<Record<string, unknown>>;

interface Drive extends MachineDrive {
  readonly isRoot: boolean;
}

/** A machine, and what it is made of now. */
interface Running {
  readonly machine: QemuMachine;
  readonly config: MachineConfig;
}

/** The state behind the API: what may be asked when, and what it does. */
export class Vmm {
  readonly #id: string;
  readonly #description: ApiDescription;
  readonly #settings: Settings;
  readonly #fault: Fault | null;
  #state: 'Not started' | 'Running' | 'Paused' = 'Not started';
  #machine: { cpus: number; memoryMiB: number } = { cpus: 1, memoryMiB: 128 };
  #boot: { kernel: string; initrd: string | null; args: string } | null = null;
  #drives: Drive[] = [];
  #cards: readonly MachineCard[] = [];
  #entropy = false;
  #vsock: { readonly path: string; readonly socket: HybridVsock } | null = null;
  /** Something other than log and metrics was configured: no snapshot is loaded any more. */
  #isConfigured = false;
  /** Once it is started. */
  #running: Running | null = null;
  #log: number | null = null;
  #metrics: number | null = null;

  constructor(id: string, description: ApiDescription, settings: Settings, fault: Fault | null) {
    this.#id = id;
    this.#description = description;
    this.#settings = settings;
    this.#fault = fault;
  }

  logTo(path: string): void {
    this.#log = pipe(path);
    this.#write(this.#log, `[${this.#id}:main] Running Firecracker v${VERSION}\n`);
  }

  /** Never resolves for a call that the double was told not to answer; rejects for one that it dies of. */
  async serve(method: string, path: string, text: string): Promise<Answer> {
    const answer = await this.#serve(method, path, text);
    if (answer.status >= 400)
      this.#write(this.#log, `[${this.#id}:fc_api] Received Error. ${JSON.stringify(answer)}\n`);
    return answer;
  }

  async #serve(method: string, path: string, text: string): Promise<Answer> {
    let body: unknown;
    try {
      body = text === '' ? undefined : JSON.parse(text);
    } catch (error) {
      return refused(`An error occurred when deserializing the json body of a request: ${(error as Error).message}.`);
    }
    const call = this.#description.check(method, path, body);
    if (call === null) return refused(`Invalid request method and/or path: ${method} ${path.split('/')[1] ?? ''}.`);
    const [fault] = call.faults;
    if (fault !== undefined) {
      const own = fault.startsWith(method) || fault.startsWith('Empty');
      return refused(own ? fault : `An error occurred when deserializing the json body of a request: ${fault}.`);
    }
    const name = `${method} ${call.template}`;
    if (this.#fault === 'refuse-vsock' && name === 'PUT /vsock') {
      return refused('Vsock config error: Cannot create backend for vsock device: UnixBind');
    }
    return this.#act(name, (body ?? {}) as Body, path.split('/')[2] ?? '');
  }

  async #act(name: string, body: Body, id: string): Promise<Answer> {
    switch (name) {
      case 'GET /':
        return {
          status: 200,
          body: { id: this.#id, state: this.#state, vmm_version: VERSION, app_name: 'Firecracker' },
        };
      case 'GET /version':
        return { status: 200, body: { firecracker_version: VERSION } };
      case 'PUT /actions':
        return this.#action(body['action_type'] as string);
      case 'PATCH /vm':
        return this.#running === null ? refused(PRE_BOOT) : this.#turn(this.#running.machine, body['state'] as string);
      case 'PATCH /drives/{drive_id}':
        return this.#running === null ? refused(PRE_BOOT) : this.#patchDrive(this.#running, body, id);
      case 'PUT /snapshot/create':
        return this.#running === null ? refused(PRE_BOOT) : this.#save(this.#running, body);
      case 'PUT /snapshot/load':
        return this.#state === 'Not started' ? this.#load(body) : refused(POST_BOOT);
      default:
        return this.#state === 'Not started' ? this.#configure(name, body, id) : refused(POST_BOOT);
    }
  }

  async #configure(name: string, body: Body, id: string): Promise<Answer> {
    if (name !== 'PUT /logger' && name !== 'PUT /metrics') this.#isConfigured = true;
    switch (name) {
      case 'PUT /logger':
        if (typeof body['log_path'] === 'string') this.#log = pipe(body['log_path']);
        return done;
      case 'PUT /metrics':
        if (this.#metrics !== null) {
          return refused(
            'Metrics error: Cannot initialize the metrics system due to bad user input: already initialized',
          );
        }
        this.#metrics = pipe(body['metrics_path'] as string);
        return done;
      case 'PUT /machine-config':
        if ((body['mem_size_mib'] as number) < 1) {
          return refused(
            'Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.',
          );
        }
        this.#machine = { cpus: body['vcpu_count'] as number, memoryMiB: body['mem_size_mib'] as number };
        return done;
      case 'PUT /boot-source':
        return this.#bootSource(body);
      case 'PUT /drives/{drive_id}':
        return this.#drive(body, id);
      case 'PUT /network-interfaces/{iface_id}':
        return this.#card(body, id);
      case 'PUT /entropy':
        this.#entropy = true;
        return done;
      case 'PUT /serial':
        return done;
      case 'PUT /vsock':
        try {
          await this.#listen(body['uds_path'] as string);
          return done;
        } catch (error) {
          return refused(`Vsock config error: Cannot create backend for vsock device: ${(error as Error).message}`);
        }
      default:
        return refused(`The double does not do ${name}.`);
    }
  }

  #bootSource(body: Body): Answer {
    const kernel = body['kernel_image_path'] as string;
    const initrd = (body['initrd_path'] as string | undefined) ?? null;
    if (!opens(kernel, false)) {
      return refused('Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)');
    }
    if (initrd !== null && !opens(initrd, false)) {
      return refused(
        'Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. No such file or directory (os error 2)',
      );
    }
    this.#boot = { kernel, initrd, args: (body['boot_args'] as string | undefined) ?? 'reboot=k panic=1' };
    return done;
  }

  #drive(body: Body, id: string): Answer {
    if (!isId(id)) return refused(NO_ID);
    if (body['drive_id'] !== id) return refused('The id from the path does not match the id from the body!');
    const path = body['path_on_host'] as string | undefined;
    const readOnly = body['is_read_only'] === true;
    if (path === undefined || !opens(path, !readOnly)) {
      return refused(`Drive config error: Unable to open or stat the file ${path}`);
    }
    const drive: Drive = { id, path, readOnly, isRoot: body['is_root_device'] === true };
    const others = this.#drives.filter((other) => other.id !== id);
    if (drive.isRoot && others.some((other) => other.isRoot)) {
      return refused('Drive config error: A root block device already exists!');
    }
    // The root device is the first, whenever it was configured.
    this.#drives = drive.isRoot ? [drive, ...others] : [...others, drive];
    return done;
  }

  async #card(body: Body, id: string): Promise<Answer> {
    if (!isId(id)) return refused(NO_ID);
    const mac = (body['guest_mac'] as string | undefined)?.toLowerCase() ?? null;
    if (mac !== null && !/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/.test(mac)) {
      return refused(
        'An error occurred when deserializing the json body of a request: The provided MAC address is invalid..',
      );
    }
    const own = body['iface_id'] as string;
    if (own !== id) {
      return refused(`The id from the path [${id}] does not match the id from the body [${own}]!`);
    }
    const others = this.#cards.filter((card) => card.id !== id);
    if (mac !== null && others.some((card) => card.mac === mac)) {
      return refused(`Network config error: The MAC address is already in use: ${mac}`);
    }
    // Whatever comes of it, the one before is gone.
    this.#cards = others;
    const tap = body['host_dev_name'] as string;
    try {
      if (others.some((card) => card.tap === tap)) throw new Error(heldTap(tap));
      await tryTap(tap);
    } catch (error) {
      const why = `Could not create the network device: Open tap device failed: ${messageOf(error)}`;
      return refused(`Network config error: ${why}`);
    }
    this.#cards = [...others, { id, tap, mac }];
    return done;
  }

  async #action(action: string): Promise<Answer> {
    if (this.#state === 'Not started') {
      return action === 'InstanceStart' ? this.#start() : refused(PRE_BOOT);
    }
    if (action === 'InstanceStart') return refused(POST_BOOT);
    if (action === 'FlushMetrics') this.#flushMetrics();
    return done;
  }

  async #start(): Promise<Answer> {
    if (this.#boot === null) {
      return refused('Start microvm error: Cannot start microvm without kernel configuration.');
    }
    if (this.#fault === 'error-at-start') return { status: 500, body: { fault_message: 'Internal VMM error: KVM' } };
    if (this.#fault === 'die-at-start') this.#die();
    if (this.#fault === 'no-answer') await new Promise(() => undefined);
    this.#state = 'Running';
    if (this.#fault === 'end-after-start') setImmediate(() => process.exit(1));
    if (this.#fault !== null) return done;
    const { kernel, initrd, args } = this.#boot;
    const config: MachineConfig = {
      ...this.#machine,
      kernel,
      initrd,
      bootArgs: args,
      drives: this.#drives,
      cards: this.#cards,
      entropy: this.#entropy,
    };
    this.#run(new QemuMachine(config, this.#settings), config);
    return done;
  }

  /** Its connections break before anybody sees that it has ended, as on a busy host. */
  #die(): never {
    setTimeout(() => process.exit(148), 600);
    throw new Error('the monitor dies');
  }

  #run(machine: QemuMachine, config: MachineConfig): void {
    this.#running = { machine, config };
    this.#vsock?.socket.attach(machine);
    // A guest that resets itself ends Firecracker.
    void machine.exited.then((code) => process.exit(code));
    this.#flushMetrics();
  }

  async #listen(path: string): Promise<void> {
    this.#vsock = { path, socket: await HybridVsock.listen(path) };
  }

  async #turn(machine: QemuMachine, wanted: string): Promise<Answer> {
    await machine.qmp.execute(wanted === 'Paused' ? 'stop' : 'cont');
    this.#state = wanted === 'Paused' ? 'Paused' : 'Running';
    return done;
  }

  async #patchDrive({ machine, config }: Running, body: Body, id: string): Promise<Answer> {
    if (body['drive_id'] !== id) return refused('The id from the path does not match the id from the body!');
    const drive = config.drives.find((one) => one.id === id);
    if (drive === undefined) {
      return refused(`Drive config error: Unable to patch the block device: Device not found: ${id}`);
    }
    const path = body['path_on_host'] as string | undefined;
    if (path === undefined) return done;
    if (!opens(path, !drive.readOnly)) {
      return refused(`Drive config error: Unable to patch the block device: Unable to open or stat the file ${path}`);
    }
    await machine.exchange({ ...drive, path });
    const drives = config.drives.map((one) => (one.id === id ? { ...one, path } : one));
    this.#running = { machine, config: { ...config, drives } };
    return done;
  }

  async #save({ machine, config }: Running, body: Body): Promise<Answer> {
    if (this.#state !== 'Paused') {
      return refused('Create snapshot error: Cannot save the microVM state: Operation not allowed: the microVM runs');
    }
    const state = { config, vsockPath: this.#vsock?.path ?? null, isListening: machine.isListening };
    try {
      await saveMachine(machine, state, body['mem_file_path'] as string, body['snapshot_path'] as string);
      return done;
    } catch (error) {
      return refused(`Create snapshot error: Cannot perform open on the memory backing file: ${messageOf(error)}`);
    }
  }

  /** After a load that failed, the process is of no use, and ends. */
  async #load(body: Body): Promise<Answer> {
    if (this.#isConfigured) {
      return refused(
        'Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.',
      );
    }
    const backend = body['mem_backend'] as Body | undefined;
    const memoryPath = body['mem_file_path'] as string | undefined;
    if (backend !== undefined && memoryPath !== undefined) {
      return refused('too many fields: either `mem_backend` or `mem_file_path` exclusively is required');
    }
    const path = memoryPath ?? (backend?.['backend_path'] as string | undefined);
    if (path === undefined) return refused('missing field: either `mem_backend` or `mem_file_path` is required');
    try {
      const { machine, state } = await loadMachine(
        path,
        body['snapshot_path'] as string,
        this.#settings,
        (body['network_overrides'] as NetworkOverride[] | undefined) ?? [],
      );
      if (state.vsockPath !== null) await this.#listen(state.vsockPath);
      this.#run(machine, state.config);
      this.#state = 'Paused';
      return body['resume_vm'] === true ? await this.#turn(machine, 'Resumed') : done;
    } catch (error) {
      setImmediate(() => process.exit(1));
      return refused(`Load snapshot error: Failed to restore from snapshot: ${messageOf(error)}`);
    }
  }

  #flushMetrics(): void {
    this.#write(this.#metrics, `${JSON.stringify({ utc_timestamp_ms: Date.now(), vmm: { panic_count: 0 } })}\n`);
  }

  /** What does not fit into the pipe is lost. */
  #write(fd: number | null, text: string): void {
    if (fd === null) return;
    try {
      writeSync(fd, text);
    } catch {
      return;
    }
  }
}

const NO_ID = 'API Resource IDs can only contain alphanumeric characters and underscores.';

const isId = (id: string) => /^[\p{L}\p{N}_]+$/u.test(id);

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

const pipe = (path: string) => openSync(path, constants.O_RDWR | constants.O_NONBLOCK);

function opens(path: string, forWriting: boolean): boolean {
  try {
    accessSync(path, constants.R_OK | (forWriting ? constants.W_OK : 0));
    return true;
  } catch {
    return false;
  }
}
