-- Lists by state read no more than they show: what has not ended is little, and what has is in the order of its lists.
CREATE INDEX executions_live ON executions (project_id, state, execution_id) WHERE ended_at IS NULL;
CREATE INDEX executions_ended ON executions (project_id, state, execution_id) WHERE ended_at IS NOT NULL;
CREATE INDEX executions_ended_of_function ON executions (project_id, function_id, state, execution_id) WHERE ended_at IS NOT NULL;
