-- What a row costs PostgreSQL as the tables grow. Figures: tests/bench/row_cost.py, daemon/DESIGN.md.
--
-- On a database in use: building the two indexes takes about a second per million rows, during which the tables can be read, but not
-- written (SHARE); tolld's journal takes what comes meanwhile. Who wants it shorter makes them ahead of time on the large partitions,
-- CREATE INDEX CONCURRENTLY ON toll.billing_events_2025_11 (session_id), which are then taken over as they are. The rest changes the catalog
-- only; dropping the old indexes waits for readers and keeps new ones out for that moment (ACCESS EXCLUSIVE).

-- In the order of the daemon's batches.
LOCK TABLE public.billing_sessions, public.billing_events, public.session_transcripts IN SHARE MODE;

-- A session's rows by session_id alone: the btree then stores equal keys once, so it is a fifth the size and stays in memory. With 50 million
-- rows and 100,000 live sessions a row costs the backend 9.5 us instead of 12.6 with (session_id, occurred_at); sorting a session's few rows costs less
-- than it saves.
CREATE INDEX billing_events_session_idx ON public.billing_events (session_id);
CREATE INDEX session_transcripts_session_idx ON public.session_transcripts (session_id);
DROP INDEX public.billing_events_session_id_idx, public.session_transcripts_session_id_idx;
ALTER INDEX public.billing_events_session_idx RENAME TO billing_events_session_id_idx;
ALTER INDEX public.session_transcripts_session_idx RENAME TO session_transcripts_session_id_idx;
COMMENT ON INDEX public.billing_events_session_id_idx IS 'A session''s events';
COMMENT ON INDEX public.session_transcripts_session_id_idx IS 'A session''s transcript';
COMMENT ON INDEX public.billing_events_batch_id_idx IS 'A batch''s events';
COMMENT ON INDEX public.session_transcripts_batch_id_idx IS 'A batch''s transcript turns';

-- Each connection takes a thousand numbers at a time, without a lock or WAL per row, and out of another one's way.
ALTER SEQUENCE public.billing_events_id_seq CACHE 1000;
ALTER SEQUENCE public.session_transcripts_id_seq CACHE 1000;
COMMENT ON COLUMN public.billing_events.id IS
    'Number of the row: unique, and growing within a batch; of two batches either may have the higher ones';
COMMENT ON COLUMN public.session_transcripts.id IS
    'Number of the row: unique, and growing within a batch; of two batches either may have the higher ones';

-- Sessions' changes come as an array of these. (They came through a temporary table: emptying it at every commit threw away the plans of
-- what read it, and planning took 10 ms.)
CREATE TYPE toll.session_change AS (
    session_id          uuid,
    whole               boolean,
    idle_before         timestamptz,
    starts              integer,
    ends                integer,
    rows                integer,
    started_at          timestamptz,
    started_at_reported timestamptz,
    last_at             timestamptz,
    ended_at            timestamptz,
    ended_at_reported   timestamptz,
    finish_reason       text,
    metadata            jsonb,
    raw_json            jsonb,
    llm_input_tokens    bigint,
    llm_output_tokens   bigint,
    llm_calls           bigint,
    tts_chars           bigint,
    tts_calls           bigint,
    stt_audio_ms        float8,
    stt_calls           bigint
);
COMMENT ON TYPE toll.session_change IS 'What a batch does to a session: see toll.insert_sessions, toll.settle_sessions';
DO $$
DECLARE
    old regprocedure;
BEGIN
    FOREACH old IN ARRAY ARRAY[to_regprocedure('toll.insert_sessions(uuid, integer)'),
                               to_regprocedure('toll.settle_sessions(uuid, integer, uuid[])')] LOOP
        CONTINUE WHEN old IS NULL; -- a new database has only those of functions/sessions.sql
        EXECUTE format('DROP FUNCTION %s', old);
    END LOOP;
END $$;
