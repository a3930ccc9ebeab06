import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';

/** What `/metrics` shows. */
export class Metrics {
  readonly registry = new Registry();
  readonly executionsCreated = this.#counter('cocore_executions_created_total', 'Executions recorded');
  readonly attemptsAssigned = this.#counter('cocore_attempts_assigned_total', 'Attempts given to a worker');
  readonly attemptsEnded = this.#counter('cocore_attempts_ended_total', 'Attempts ended, by who said so', ['by']);
  readonly outputBytes = this.#counter('cocore_output_bytes_total', 'Bytes of output committed');
  readonly outputCommits = this.#counter('cocore_output_commits_total', 'Commits of output, each of one attempt');
  readonly protocolFaults = this.#counter('cocore_worker_protocol_faults_total', 'Sessions closed for a fault');

  constructor() {
    collectDefaultMetrics({ register: this.registry });
  }

  /** A value that is read when it is asked for. */
  observe(name: string, help: string, read: () => number): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      collect() {
        this.set(read());
      },
    });
  }

  #counter<Label extends string = never>(name: string, help: string, labelNames: Label[] = []): Counter<Label> {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }
}
