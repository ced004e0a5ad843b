-- Which sessions are live, in a table of its own instead of an index on billing_sessions.
--
-- An index that holds live sessions only makes every session's end an update that is not HOT: a new entry in each index of billing_sessions, and
-- an old one for vacuum. A row here costs a sixth of that. (Measured: daemon/DESIGN.md, "Where the time goes".)

-- No session may begin or end between listing them and the first batch that keeps the list.
LOCK TABLE public.billing_sessions IN ACCESS EXCLUSIVE MODE;

CREATE TABLE toll.open_sessions (
    session_id uuid PRIMARY KEY REFERENCES public.billing_sessions (session_id) ON DELETE CASCADE
)
-- As many rows go as come: vacuum by number, whatever the size.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_analyze_scale_factor = 0.2);
COMMENT ON TABLE toll.open_sessions IS
    'The sessions of public.billing_sessions whose ended_at is NULL, which tolld keeps as it begins and ends them. Who ends or reopens one by hand'
    ' changes this as well; toll.verify() compares the two';
COMMENT ON COLUMN toll.open_sessions.session_id IS 'The call';

INSERT INTO toll.open_sessions (session_id)
SELECT session_id FROM public.billing_sessions WHERE ended_at IS NULL ORDER BY session_id;

DROP INDEX public.billing_sessions_live_owner_idx;
