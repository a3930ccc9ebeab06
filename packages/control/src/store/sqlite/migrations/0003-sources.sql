-- A version says how its process is started, and where its code came from, instead of naming a runtime and a file that only the
-- program knows how to start. `runtime` is '' for an image. (A table that others refer to is not made anew: hence the defaults.)
ALTER TABLE function_versions ADD COLUMN source TEXT NOT NULL DEFAULT '{}';
ALTER TABLE function_versions ADD COLUMN handler TEXT;
ALTER TABLE function_versions ADD COLUMN process TEXT NOT NULL DEFAULT '{}';
UPDATE function_versions SET
  source = json_object('kind', 'file', 'name', file_name),
  process = json_object(
    'argv', json_array(CASE runtime WHEN 'python' THEN '/usr/bin/python3' ELSE '/bin/bash' END, '/function/' || file_name),
    'env', json_patch(
      json_object(
        'PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'LANG', 'C.UTF-8', 'HOME', '/work'
      ),
      CASE runtime WHEN 'python' THEN '{"PYTHONUNBUFFERED":"1"}' ELSE '{}' END
    ),
    'cwd', '/work',
    'user', json_object('uid', 0, 'gid', 0, 'additionalGids', json_array()),
    'stopSignal', NULL
  );
ALTER TABLE function_versions DROP COLUMN file_name;
