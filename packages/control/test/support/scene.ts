import type { ExecutionAnswer } from '@cocore/protocol';
import { SWEEP_MS } from '../../src/dispatch/sweeper.ts';
import { ManualClock } from './manual-clock.ts';
import { executing, pass } from './pass.ts';
import { Identity, type Message, ScriptedWorker } from './scripted-worker.ts';
import { TestServer } from './test-server.ts';

/** A server and a worker that executes one function, whose timeout is one minute. */
export class Scene implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly identity = new Identity();
  readonly #scope = new AsyncDisposableStack();
  server!: TestServer;
  worker!: ScriptedWorker;
  assign!: Message<'AttemptAssign'>;
  #beats = 0;

  static async start(): Promise<Scene> {
    const scene = new Scene();
    await using scope = new AsyncDisposableStack();
    scope.use(scene);
    scene.server = scene.#scope.use(await TestServer.start({ clock: scene.clock }));
    const joinToken = await scene.server.joinToken();
    const { identity } = scene;
    scene.worker = scene.#scope.use(await ScriptedWorker.connect(scene.server, { identity, joinToken }));
    await scene.server.deploy('minute', { timeoutMs: 60_000 });
    await scene.server.run('minute');
    scene.assign = await scene.worker.startNext();
    await executing(scene.server, scene.assign.executionId);
    scope.move();
    return scene;
  }

  /** Lets time pass; its worker beats once a second of it. */
  async live(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += SWEEP_MS) {
      this.#beats += 1;
      this.worker.beat(this.#beats);
      await this.worker.next('HeartbeatAck', (ack) => ack.sequence === this.#beats);
      await pass(this.server, this.clock, SWEEP_MS);
    }
  }

  /** The worker is there again, with what it had. */
  async comeBack(): Promise<void> {
    const inventory = [this.assign.attemptId];
    const { identity } = this;
    this.worker = this.#scope.use(await ScriptedWorker.connect(this.server, { identity, inventory }));
  }

  execution(wait?: string): Promise<ExecutionAnswer> {
    return this.server.execution(this.assign.executionId, wait);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#scope.disposeAsync();
  }
}
