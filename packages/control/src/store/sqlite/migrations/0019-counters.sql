-- The verbs count for themselves now (`verbs/counters.ts`): in a database of several servers, triggers that write the same few rows for every
-- execution would let all of them wait for each other, so there is one way to count for every database.
DROP TRIGGER attempts_output_kept;
DROP TRIGGER attempts_output_removed;
DROP TRIGGER attempts_output_unkept;
DROP TRIGGER executions_queued;
DROP TRIGGER executions_requeued;
