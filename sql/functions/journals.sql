-- Who moves a journal's watermark.

CREATE OR REPLACE FUNCTION toll.claim_journal(journal uuid, writer integer, last_run uuid, this_run uuid)
RETURNS TABLE (lsn bigint, taken_from bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    watermark bigint;
    present uuid;
    own bigint; -- how far last_run came before somebody took over
BEGIN
    SELECT j.lsn, j.run INTO watermark, present
    FROM toll.journals AS j
    WHERE j.journal_id = claim_journal.journal AND j.writer = claim_journal.writer
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF present IS DISTINCT FROM this_run THEN
        IF present IS DISTINCT FROM last_run THEN
            SELECT r.lsn INTO own
            FROM toll.journal_runs AS r
            WHERE r.journal_id = claim_journal.journal AND r.writer = claim_journal.writer AND r.run = last_run;
        END IF;
        IF watermark > own THEN
            RETURN QUERY SELECT watermark, own;
            RETURN;
        END IF;
        INSERT INTO toll.journal_runs AS r (journal_id, writer, run, lsn)
        SELECT claim_journal.journal, claim_journal.writer, present, watermark
        WHERE present IS NOT NULL
        ON CONFLICT (journal_id, writer, run) DO UPDATE SET lsn = excluded.lsn, ended_at = excluded.ended_at;
        DELETE FROM toll.journal_runs AS r WHERE r.ended_at < now() - interval '1 year';
        UPDATE toll.journals AS j
        SET run = this_run, seen_at = now()
        WHERE j.journal_id = claim_journal.journal AND j.writer = claim_journal.writer;
    END IF;
    RETURN QUERY SELECT watermark, NULL::bigint;
END $$;
REVOKE ALL ON FUNCTION toll.claim_journal(uuid, integer, uuid, uuid) FROM PUBLIC;
COMMENT ON FUNCTION toll.claim_journal(uuid, integer, uuid, uuid) IS
    'For tolld, on connecting: makes this_run the one that moves the journal''s watermark, and returns that; no row: there is none. last_run is the'
    ' run that the journal''s files remember. If another run has moved the watermark since that one, the journal is in use twice: nothing is'
    ' changed, and taken_from says how far last_run had come';
