-- Which run of tolld uses a journal's watermark, so that two copies of a journal (a cloned machine, a state directory restored beside the
-- original) find out about each other instead of each taking the other's progress for its own.

ALTER TABLE toll.journals ADD COLUMN run uuid;
COMMENT ON COLUMN toll.journals.run IS 'The run of tolld that moves the watermark now; nobody else may';

CREATE TABLE toll.journal_runs (
    journal_id uuid,
    writer     integer,
    run        uuid,
    lsn        bigint NOT NULL,
    ended_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (journal_id, writer, run)
);
COMMENT ON TABLE toll.journal_runs IS 'How far each earlier run of a journal and writer came. Kept for a year';
COMMENT ON COLUMN toll.journal_runs.journal_id IS 'The journal';
COMMENT ON COLUMN toll.journal_runs.writer IS 'The writer';
COMMENT ON COLUMN toll.journal_runs.run IS 'The run: a random id';
COMMENT ON COLUMN toll.journal_runs.lsn IS 'The watermark when the next run took over';
COMMENT ON COLUMN toll.journal_runs.ended_at IS 'When that was';
