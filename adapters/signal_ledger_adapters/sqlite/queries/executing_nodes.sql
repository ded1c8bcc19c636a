-- Find the engines that jobs are said to execute on.
--
-- Parameters: none.
-- Rows: node.

SELECT DISTINCT node
FROM oban_jobs
WHERE state = 'executing'
  AND node IS NOT NULL
