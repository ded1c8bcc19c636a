-- Delete the edges that lead to no step.
--
-- Parameters: none.
-- Rows: none.

DELETE FROM signal_ledger_edges
WHERE NOT EXISTS (
    SELECT 1
    FROM signal_ledger_steps AS step
    WHERE step.workflow_id = signal_ledger_edges.workflow_id AND step.name = signal_ledger_edges.name
)
