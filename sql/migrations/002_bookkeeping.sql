-- How toll knows what it has stored: journals and their watermarks, streams, batches, what was refused, what was
-- removed. tolld writes these tables in the transaction that stores the rows they speak of.

COMMENT ON SCHEMA toll IS
    'Bookkeeping of the metering daemon tolld; what it meters is in public.billing_sessions and its like';
COMMENT ON TABLE toll.migrations IS 'What of the schema has been applied to this database';
COMMENT ON COLUMN toll.migrations.name IS 'migrations/..., functions/..., views/... or roles';
COMMENT ON COLUMN toll.migrations.checksum IS 'Of the SQL text that was applied';
COMMENT ON COLUMN toll.migrations.applied_at IS 'When';

CREATE TABLE toll.meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO toll.meta (key, value) VALUES ('database_uuid', gen_random_uuid()::text);
COMMENT ON TABLE toll.meta IS 'Facts about this database';
COMMENT ON COLUMN toll.meta.key IS 'The fact: database_uuid';
COMMENT ON COLUMN toll.meta.value IS 'Its value';

CREATE TABLE toll.journals (
    journal_id uuid,
    writer     integer,
    lsn        bigint NOT NULL,
    host       text,
    version    text,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (journal_id, writer)
) WITH (fillfactor = 50);
COMMENT ON TABLE toll.journals IS
    'The watermark of each journal and writer: everything below lsn is stored in this database';
COMMENT ON COLUMN toll.journals.journal_id IS 'The journal''s UUID: one per daemon''s state directory';
COMMENT ON COLUMN toll.journals.writer IS 'The writer, from 0';
COMMENT ON COLUMN toll.journals.lsn IS 'The watermark: where the writer''s last committed batch ended';
COMMENT ON COLUMN toll.journals.host IS 'The machine the daemon runs on';
COMMENT ON COLUMN toll.journals.version IS 'The daemon''s version';
COMMENT ON COLUMN toll.journals.created_at IS 'When the journal was first seen here';
COMMENT ON COLUMN toll.journals.seen_at IS 'When its daemon last connected or committed';

CREATE TABLE toll.streams (
    uid           bigint,
    stream_id     uuid,
    writer        integer,
    seen          int8multirange NOT NULL,
    revision      bigint NOT NULL DEFAULT 1,
    client        text,
    host          text,
    pid           integer,
    first_seen_at timestamptz,
    last_seen_at  timestamptz,
    PRIMARY KEY (uid, stream_id, writer)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON TABLE toll.streams IS
    'The frame numbers that were applied, per sending process. Rows idle for a week are dropped. Holes:'
    ' toll.stream_holes';
COMMENT ON COLUMN toll.streams.uid IS 'User id of the sender';
COMMENT ON COLUMN toll.streams.stream_id IS 'The random id the sending process took';
COMMENT ON COLUMN toll.streams.writer IS 'The writer that keeps this row';
COMMENT ON COLUMN toll.streams.seen IS 'The numbers applied, from 1; one range {[1,n)} when nothing is missing';
COMMENT ON COLUMN toll.streams.revision IS 'Counts the changes of this row';
COMMENT ON COLUMN toll.streams.client IS 'What the sender calls itself';
COMMENT ON COLUMN toll.streams.host IS 'The machine it runs on';
COMMENT ON COLUMN toll.streams.pid IS 'Its process id';
COMMENT ON COLUMN toll.streams.first_seen_at IS 'When its first frame was received';
COMMENT ON COLUMN toll.streams.last_seen_at IS 'When its latest frame was received';

CREATE SEQUENCE toll.batch_id_seq;
COMMENT ON SEQUENCE toll.batch_id_seq IS 'Numbers of batches';

CREATE TABLE toll.batches (
    batch_id          bigint PRIMARY KEY,
    journal_id        uuid NOT NULL,
    writer            integer NOT NULL,
    from_lsn          bigint NOT NULL,
    to_lsn            bigint NOT NULL,
    received          integer NOT NULL,
    stored            integer NOT NULL,
    quarantined       integer NOT NULL,
    duplicates        integer NOT NULL,
    events            integer NOT NULL,
    transcripts       integer NOT NULL,
    first_received_at timestamptz,
    last_received_at  timestamptz,
    committed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT batches_journal_range_key UNIQUE (journal_id, writer, from_lsn),
    CONSTRAINT batches_range_check CHECK (from_lsn < to_lsn),
    CONSTRAINT batches_frames_check CHECK (received = stored + quarantined + duplicates)
);
COMMENT ON TABLE toll.batches IS
    'One row per transaction of tolld: the range of the journal it stored. A journal''s and writer''s ranges follow'
    ' one another without gap.';
COMMENT ON COLUMN toll.batches.batch_id IS 'Number of the batch; billing_events and session_transcripts refer to it';
COMMENT ON COLUMN toll.batches.journal_id IS 'The journal';
COMMENT ON COLUMN toll.batches.writer IS 'The writer';
COMMENT ON COLUMN toll.batches.from_lsn IS 'Where in the journal the batch begins: the to_lsn of the one before';
COMMENT ON COLUMN toll.batches.to_lsn IS 'Where it ends';
COMMENT ON COLUMN toll.batches.received IS 'Frames in the range: stored + quarantined + duplicates';
COMMENT ON COLUMN toll.batches.stored IS 'Frames stored, of every type';
COMMENT ON COLUMN toll.batches.quarantined IS 'Frames refused (toll.quarantine)';
COMMENT ON COLUMN toll.batches.duplicates IS 'Frames that had been applied before';
COMMENT ON COLUMN toll.batches.events IS 'Rows the batch added to billing_events';
COMMENT ON COLUMN toll.batches.transcripts IS 'Rows the batch added to session_transcripts';
COMMENT ON COLUMN toll.batches.first_received_at IS 'When its first frame was received';
COMMENT ON COLUMN toll.batches.last_received_at IS 'When its last frame was received';
COMMENT ON COLUMN toll.batches.committed_at IS 'When it was stored';

CREATE TABLE toll.quarantine (
    id          bigserial PRIMARY KEY,
    batch_id    bigint,
    journal_id  uuid,
    lsn         bigint,
    frame_index integer,
    stream_id   uuid,
    seq         bigint,
    uid         bigint,
    pid         integer,
    received_at timestamptz,
    reason      text NOT NULL,
    bytes       bytea NOT NULL
);
CREATE INDEX quarantine_batch_id_idx ON toll.quarantine (batch_id);
COMMENT ON TABLE toll.quarantine IS 'Frames that could not be stored, each with the reason and its bytes';
COMMENT ON COLUMN toll.quarantine.id IS 'Number of the row';
COMMENT ON COLUMN toll.quarantine.batch_id IS 'The batch that refused it';
COMMENT ON COLUMN toll.quarantine.journal_id IS 'The journal it came through';
COMMENT ON COLUMN toll.quarantine.lsn IS 'Where its datagram stands in the journal';
COMMENT ON COLUMN toll.quarantine.frame_index IS 'Which frame of the datagram';
COMMENT ON COLUMN toll.quarantine.stream_id IS 'The sender''s stream, if it has one';
COMMENT ON COLUMN toll.quarantine.seq IS 'The frame''s number in that stream';
COMMENT ON COLUMN toll.quarantine.uid IS 'User id of the sender';
COMMENT ON COLUMN toll.quarantine.pid IS 'Process id of the sender';
COMMENT ON COLUMN toll.quarantine.received_at IS 'When it was received';
COMMENT ON COLUMN toll.quarantine.reason IS 'What is wrong with it';
COMMENT ON COLUMN toll.quarantine.bytes IS 'The bytes as received; empty once erased';

CREATE TABLE toll.gaps (
    id          bigserial PRIMARY KEY,
    batch_id    bigint,
    stream_id   uuid,
    seq         bigint,
    uid         bigint,
    pid         integer,
    session_id  uuid,
    count       bigint NOT NULL,
    since       timestamptz,
    until       timestamptz,
    received_at timestamptz,
    raw_json    jsonb
);
COMMENT ON TABLE toll.gaps IS
    'Frames that workers had to refuse because their ring was full: losses, counted by who suffered them';
COMMENT ON COLUMN toll.gaps.id IS 'Number of the row';
COMMENT ON COLUMN toll.gaps.batch_id IS 'The batch that stored it';
COMMENT ON COLUMN toll.gaps.stream_id IS 'The sender''s stream, if it has one';
COMMENT ON COLUMN toll.gaps.seq IS 'The gap frame''s number in that stream';
COMMENT ON COLUMN toll.gaps.uid IS 'User id of the sender';
COMMENT ON COLUMN toll.gaps.pid IS 'Process id of the sender';
COMMENT ON COLUMN toll.gaps.session_id IS 'The call, if the sender named one; it need not be in billing_sessions';
COMMENT ON COLUMN toll.gaps.count IS 'How many frames were refused';
COMMENT ON COLUMN toll.gaps.since IS 'When the first of them was refused';
COMMENT ON COLUMN toll.gaps.until IS 'When the last of them was refused';
COMMENT ON COLUMN toll.gaps.received_at IS 'When the gap frame was received';
COMMENT ON COLUMN toll.gaps.raw_json IS 'Keys of the frame that toll does not know';

CREATE TABLE toll.removed_rows (
    batch_id    bigint PRIMARY KEY,
    events      bigint NOT NULL DEFAULT 0,
    transcripts bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE toll.removed_rows IS
    'How many rows of a batch retention has removed, so that toll.verify() can still account for every row';
COMMENT ON COLUMN toll.removed_rows.batch_id IS 'The batch';
COMMENT ON COLUMN toll.removed_rows.events IS 'Rows removed from billing_events';
COMMENT ON COLUMN toll.removed_rows.transcripts IS 'Rows removed from session_transcripts';
COMMENT ON COLUMN toll.removed_rows.quarantined IS 'Rows removed from toll.quarantine';
