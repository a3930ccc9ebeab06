-- Without the project, which the id of a function is enough for: an index that begins with the project looks to PostgreSQL as good as the primary key, for
-- one execution too, of which it has to walk along all that the project has.
CREATE INDEX executions_of_function ON executions (function_id, execution_id);
DROP INDEX executions_by_function;
