import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { IdMaker, makeId, type ExecutionState } from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { type Database, openDatabase } from '../src/store/sqlite/database.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { countLive } from '../src/store/verbs/cancellations.ts';
import type { Context } from '../src/store/verbs/context.ts';
import { listExecutions, readExecution } from '../src/store/verbs/executions.ts';
import { STATEMENTS, type Verb } from '../src/store/verbs/statements.ts';
import { StoreScene } from './store/store-scene.ts';
import { temporaryDatabase } from './support/temporary.ts';

const AN_ID = makeId('execution', Date.now(), new Uint8Array(10));

/** How SQLite finds the rows that users ask for: by an index that has them in their order, so a page costs the same however large the store is. */
describe('query plans', () => {
  const place = temporaryDatabase();
  const scene = new StoreScene(
    (path, now) => openSqliteStore({ path, now }),
    () => place,
  );
  const context: Context = { db: STATEMENTS, now: Date.now, random: () => new Uint8Array(10), ids: new IdMaker() };
  let db: Database;
  let batch: string;
  before(async () => {
    await scene.begin();
    const executions = [scene.request()];
    batch = (
      await scene.store.createBatch({ projectId: scene.projectId, executions, idempotencyKey: null }, DEFAULT_LIMITS)
    ).batchId;
    db = openDatabase(place.path, { readOnly: true });
  });
  after(async () => {
    db.close();
    await scene.end();
  });

  /** The steps of each statement that the verb asks for, of the tables that grow with executions. */
  function plansOf(verb: Verb<unknown>): string[] {
    const plans: string[] = [];
    let step = verb.next();
    while (step.done !== true) {
      const statement = step.value;
      assert.equal(statement.kind === 'get' || statement.kind === 'all', true);
      if (statement.kind === 'count') throw new Error('reading counts nothing');
      const { sql, parameters } = statement;
      for (const { detail } of db.all<{ detail: string }>(`EXPLAIN QUERY PLAN ${sql}`, ...parameters)) {
        if (/\b[ea]\b|executions|attempts|TEMP/.test(detail)) plans.push(detail);
      }
      step = verb.next(statement.kind === 'get' ? db.get(sql, ...parameters) : db.all(sql, ...parameters));
    }
    return plans;
  }

  function assertSought(verb: Verb<unknown>, first: RegExp): void {
    const plans = plansOf(verb);
    assert.match(plans[0]!, first);
    for (const plan of plans) assert.match(plan, /^SEARCH/);
    // What a page shows is found by its ids.
    const [, ...shown] = plans.filter((plan) => plan.startsWith('SEARCH e '));
    for (const plan of shown) assert.match(plan, /\(project_id=\? AND execution_id=\?\)/);
  }

  const list = (query: { state?: ExecutionState; function?: string; batch?: string; cursor?: string }) =>
    listExecutions(context, scene.projectId, { limit: 50, ...query });

  for (const cursor of [undefined, AN_ID]) {
    const from = cursor === undefined ? {} : { cursor };
    const what = cursor === undefined ? 'the first page' : 'a later page';

    test(`${what} of all executions, it is read by their ids`, () => {
      assertSought(list(from), /sqlite_autoindex_executions_1/);
    });

    test(`${what} of a function, a batch or a state, it is read by an index of that`, () => {
      assertSought(list({ ...from, function: 'add' }), /executions_of_function/);
      assertSought(list({ ...from, batch }), /executions_by_batch/);
      assertSought(list({ ...from, batch, state: 'success' }), /executions_by_batch/);
      assertSought(list({ ...from, batch, function: 'add' }), /executions_by_batch/);
      for (const state of ['success', 'failure', 'timeout', 'cancelled'] as const) {
        assertSought(list({ ...from, state }), /executions_ended \(project_id=\? AND state=\?/);
        assertSought(
          list({ ...from, state, function: 'add' }),
          /executions_ended_of_function \(project_id=\? AND function_id=\? AND state=\?/,
        );
      }
      for (const state of ['open', 'running'] as const) {
        assertSought(list({ ...from, state }), /executions_live/);
        assertSought(list({ ...from, state, function: 'add' }), /executions_live/);
      }
    });
  }

  test('one execution and what has not ended, they are sought too', () => {
    assertSought(readExecution(context, scene.projectId, AN_ID), /executions/);
    assertSought(countLive(context, scene.projectId, { createdBeforeMs: 0 }), /one_live_primary|live/);
  });
});
