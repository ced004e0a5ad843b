-- Several writers for one journal: each stores the frames of the sessions that are its share, with a watermark of its own.

-- A writer notes every number that goes by, its own or not, so that the numbers stay one range. What is noted says something about the writer's own share only,
-- so it has to be known of how many writers it was one.
ALTER TABLE toll.streams ADD COLUMN writers integer NOT NULL DEFAULT 1;
ALTER TABLE toll.streams DROP CONSTRAINT streams_pkey;
ALTER TABLE toll.streams ADD CONSTRAINT streams_pkey PRIMARY KEY (uid, stream_id, writers, writer);
COMMENT ON COLUMN toll.streams.writer IS 'The writer that keeps this row, from 0';
COMMENT ON COLUMN toll.streams.writers IS 'Of so many: it has stored the frames of the sessions that are its share';
COMMENT ON COLUMN toll.streams.seen IS
    'The numbers that went by; one range from base on when nothing is missing. Frames of other writers'' sessions are among them';

CREATE TABLE toll.journal_shares (
    journal_id uuid,
    from_lsn   bigint,
    writers    integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (journal_id, from_lsn, changed_at)
);
COMMENT ON TABLE toll.journal_shares IS
    'When a journal''s number of writers was changed: all of them stood at from_lsn then. Writers that were added begin there';
COMMENT ON COLUMN toll.journal_shares.journal_id IS 'The journal';
COMMENT ON COLUMN toll.journal_shares.from_lsn IS 'Where in it the change took place';
COMMENT ON COLUMN toll.journal_shares.writers IS 'How many there are from there on';
COMMENT ON COLUMN toll.journal_shares.changed_at IS 'When';

-- Its successor has another signature. (A new database has neither: functions come after the migrations.)
DO $$
BEGIN
    IF to_regprocedure('toll.claim_journal(uuid, integer, uuid, uuid)') IS NOT NULL THEN
        DROP FUNCTION toll.claim_journal(uuid, integer, uuid, uuid);
    END IF;
END $$;
