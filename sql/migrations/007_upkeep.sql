-- What keeps a database that stores for years quick and small: a list of live sessions, and one row for many old batches.

-- Live sessions stand in a table of their own instead of an index on billing_sessions. An index that holds live sessions only makes every
-- session's end an update that is not HOT: a new entry in each index of billing_sessions, and an old one for vacuum. A row here costs a sixth
-- of that. (Measured: daemon/DESIGN.md, "Where the time goes".)

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

CREATE TABLE toll.batch_rollups (
    journal_id        uuid,
    writer            integer,
    from_lsn          bigint,
    to_lsn            bigint NOT NULL,
    first_batch_id    bigint NOT NULL,
    last_batch_id     bigint NOT NULL,
    batches           integer NOT NULL,
    received          bigint NOT NULL,
    stored            bigint NOT NULL,
    quarantined       bigint NOT NULL,
    duplicates        bigint NOT NULL,
    events            bigint NOT NULL,
    transcripts       bigint NOT NULL,
    first_received_at timestamptz,
    last_received_at  timestamptz,
    committed_at      timestamptz NOT NULL,
    PRIMARY KEY (journal_id, writer, from_lsn),
    CONSTRAINT batch_rollups_range_check CHECK (from_lsn < to_lsn AND first_batch_id <= last_batch_id),
    CONSTRAINT batch_rollups_frames_check CHECK (received = stored + quarantined + duplicates)
);
CREATE INDEX batch_rollups_last_batch_id_idx ON toll.batch_rollups (last_batch_id);
COMMENT ON TABLE toll.batch_rollups IS
    'What old rows of toll.batches said, many in one (toll.prune_batches): a row per journal and writer, and where its ranges do not follow one'
    ' another, a row for each part. The rows that were rolled up together have the same first_batch_id and last_batch_id';
COMMENT ON COLUMN toll.batch_rollups.journal_id IS 'The journal';
COMMENT ON COLUMN toll.batch_rollups.writer IS 'The writer';
COMMENT ON COLUMN toll.batch_rollups.from_lsn IS 'Where in the journal the first of the batches begins';
COMMENT ON COLUMN toll.batch_rollups.to_lsn IS 'Where the last one ends';
COMMENT ON COLUMN toll.batch_rollups.first_batch_id IS 'The batches'' numbers, of all journals and writers, are from here on';
COMMENT ON COLUMN toll.batch_rollups.last_batch_id IS 'And up to here';
COMMENT ON COLUMN toll.batch_rollups.batches IS 'How many batches there were';
COMMENT ON COLUMN toll.batch_rollups.received IS 'Frames in the range: stored + quarantined + duplicates';
COMMENT ON COLUMN toll.batch_rollups.stored IS 'Frames stored, of every type';
COMMENT ON COLUMN toll.batch_rollups.quarantined IS 'Frames refused (toll.quarantine)';
COMMENT ON COLUMN toll.batch_rollups.duplicates IS 'Frames that had been applied before';
COMMENT ON COLUMN toll.batch_rollups.events IS 'Rows the batches added to billing_events';
COMMENT ON COLUMN toll.batch_rollups.transcripts IS 'Rows the batches added to session_transcripts';
COMMENT ON COLUMN toll.batch_rollups.first_received_at IS 'When the first frame was received';
COMMENT ON COLUMN toll.batch_rollups.last_received_at IS
    'When the last frame was received, of all journals and writers in last_batch_id''s range';
COMMENT ON COLUMN toll.batch_rollups.committed_at IS 'When the last of the batches was stored';

COMMENT ON TABLE toll.batches IS
    'One row per transaction of tolld: the range of the journal it stored. A journal''s and writer''s ranges follow one another without gap. Old ones'
    ' are rolled up: toll.batch_rollups';
COMMENT ON TABLE toll.removed_rows IS
    'How many rows of a batch retention has removed, so that toll.verify() can still account for every row; of batches that were rolled up, by their'
    ' last_batch_id';
-- Rows come at one end and go at the other, thousands at a time.
ALTER TABLE toll.batches SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
