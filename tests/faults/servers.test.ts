import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { postgresSkip } from '../../packages/control/test/support/postgres.ts';
import { until } from '../e2e/support/wait.ts';
import { nowMs } from './clock.ts';
import { jobsOf } from './jobs.ts';
import { processesOf } from './leaks.ts';
import { Ledger } from './ledger.ts';
import { judge } from './oracle.ts';
import { listedJobs, outputsOf, recordsOf } from './round.ts';
import { Servers } from './servers.ts';
import { work } from './workload.ts';

const SEED = 1;
const EXECUTIONS = 250;
const WORK_MS = 24_000;
/** Between the kills, and how long a server is away: each server has its turn while work comes in. */
const EACH_MS = 7_000;
const AWAY_MS = 3_000;
const SETTLE_MS = 90_000;

test(
  'three servers behind a balancer, killed in turn under load: nothing lost, nothing twice, nothing stuck, and output whole',
  { skip: postgresSkip },
  async () => {
    await using servers = await Servers.start();
    const startMs = nowMs();
    const wallAheadMs = Date.now() - startMs;
    const giveUp = AbortSignal.timeout(WORK_MS + SETTLE_MS);
    const working = work(jobsOf(SEED, EXECUTIONS, WORK_MS), servers.client, startMs, giveUp);
    for (const control of servers.controls) {
      await sleep(EACH_MS - AWAY_MS);
      await control.end('SIGKILL');
      await sleep(AWAY_MS);
      // The last one stays away: others find out, and see to what it had.
      if (control !== servers.controls.at(-1)) await control.start();
    }
    const runs = await working;
    const records = await recordsOf(runs, servers.client);
    const outputs = await outputsOf([...records.keys()], servers.client);
    const listed = await listedJobs(servers.client);
    await until('the one that stayed away is known to be gone', async () => {
      return (await servers.postgres.query('SELECT server_id FROM servers')).length === 2;
    });
    const workersOfServers = new Set(
      (await servers.postgres.query<{ server_id: string }>('SELECT server_id FROM workers')).map(
        (row) => row.server_id,
      ),
    );
    for (const daemon of servers.daemons) daemon.sample();
    await servers.stop();
    const verdict = judge({
      ...{ faults: [], runs, records, outputs, listed, sightings: [], workerIds: servers.workerIds, wallAheadMs },
      ledger: Ledger.read(servers.ledgerPath),
      memoryPeakKiB: {
        control: Math.max(...servers.controls.map(({ memoryPeakKiB }) => memoryPeakKiB)),
        worker: Math.max(...servers.workers.map(({ memoryPeakKiB }) => memoryPeakKiB)),
      },
      surprises: servers.daemons.flatMap(({ surprises }) => surprises),
      leaks: processesOf(servers.directory),
    });
    assert.deepEqual(verdict.violations, []);
    assert.equal(records.size, EXECUTIONS);
    const moves = runs.reduce((sum, { repeated }) => sum + repeated, 0);
    assert.ok(moves > 0, 'no request met a server that was killed');
    assert.ok(workersOfServers.size <= 2, 'a worker is still that of a server that is gone');
  },
);
