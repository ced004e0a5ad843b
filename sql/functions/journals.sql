-- Who moves a journal's watermarks, and how many of them there are.

CREATE OR REPLACE FUNCTION toll.claim_journal(
    journal uuid, writer integer, writers integer, last_run uuid, this_run uuid)
RETURNS TABLE (lsn bigint, taken_from bigint, stored_writers integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    watermark bigint;
    present uuid;
    own bigint; -- how far last_run came before somebody took over
    number integer;
BEGIN
    -- Only this writer's row: another's may be locked by its batch.
    SELECT j.lsn, j.run INTO watermark, present
    FROM toll.journals AS j
    WHERE j.journal_id = claim_journal.journal AND j.writer = claim_journal.writer
    FOR UPDATE;
    number := (SELECT count(*) FROM toll.journals AS j WHERE j.journal_id = claim_journal.journal);
    IF number = 0 THEN
        RETURN;
    END IF;
    IF present IS DISTINCT FROM this_run AND present IS DISTINCT FROM last_run THEN
        SELECT r.lsn INTO own
        FROM toll.journal_runs AS r
        WHERE r.journal_id = claim_journal.journal AND r.writer = claim_journal.writer AND r.run = last_run;
    END IF;
    IF number <> claim_journal.writers OR watermark > own THEN
        RETURN QUERY SELECT watermark, own, number;
        RETURN;
    END IF;
    IF present IS DISTINCT FROM this_run THEN
        INSERT INTO toll.journal_runs AS r (journal_id, writer, run, lsn)
        SELECT claim_journal.journal, claim_journal.writer, present, watermark
        WHERE present IS NOT NULL
        ON CONFLICT (journal_id, writer, run) DO UPDATE SET lsn = excluded.lsn, ended_at = excluded.ended_at;
        DELETE FROM toll.journal_runs AS r WHERE r.ended_at < now() - interval '1 year';
        UPDATE toll.journals AS j
        SET run = this_run, seen_at = now()
        WHERE j.journal_id = claim_journal.journal AND j.writer = claim_journal.writer;
    END IF;
    RETURN QUERY SELECT watermark, NULL::bigint, number;
END $$;
REVOKE ALL ON FUNCTION toll.claim_journal(uuid, integer, integer, uuid, uuid) FROM PUBLIC;
COMMENT ON FUNCTION toll.claim_journal(uuid, integer, integer, uuid, uuid) IS
    'For tolld, on connecting: makes this_run the one that moves the watermark of the journal''s writer, and returns that; no row: this database does not'
    ' know the journal. last_run is the run that the journal''s files remember. If another run has moved the watermark since that one, the journal is'
    ' in use twice: nothing is changed, and taken_from says how far last_run had come. Nor is anything changed where the journal has another number of'
    ' writers, stored_writers; lsn is NULL then if this one is not among them';

CREATE OR REPLACE FUNCTION toll.register_journal(journal uuid, lsns bigint[], host text, version text)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO toll.journals (journal_id, writer, lsn, host, version)
    SELECT journal, u.n - 1, u.lsn, host, version
    FROM unnest(lsns) WITH ORDINALITY AS u (lsn, n)
    WHERE NOT EXISTS (SELECT FROM toll.journals AS j WHERE j.journal_id = journal)
    ORDER BY u.n
    ON CONFLICT DO NOTHING -- all writers do so at the same time: one of them inserts all rows
$$;
REVOKE ALL ON FUNCTION toll.register_journal(uuid, bigint[], text, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.register_journal(uuid, bigint[], text, text) IS
    'For tolld: makes a journal known, with a watermark for each of its writers, if it is not known yet';

CREATE OR REPLACE FUNCTION toll.share_journal(journal uuid, this_run uuid, at_lsn bigint, old integer, new integer)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER -- nobody else takes a watermark away
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM toll.journals AS j WHERE j.journal_id = journal ORDER BY j.writer FOR UPDATE;
    IF (SELECT count(*) <> old OR bool_or(j.lsn <> at_lsn)
            OR bool_or(j.writer = 0 AND j.run IS DISTINCT FROM this_run)
        FROM toll.journals AS j WHERE j.journal_id = journal) THEN
        RETURN false;
    END IF;
    INSERT INTO toll.journals (journal_id, writer, lsn, host, version)
    SELECT journal, added, at_lsn, j.host, j.version
    FROM toll.journals AS j, generate_series(old, new - 1) AS added
    WHERE j.journal_id = journal AND j.writer = 0;
    -- What is known of earlier runs of a writer speaks of another one's share.
    DELETE FROM toll.journal_runs AS r WHERE r.journal_id = journal AND r.writer BETWEEN old AND new - 1;
    INSERT INTO toll.journal_runs (journal_id, writer, run, lsn)
    SELECT journal, j.writer, j.run, j.lsn
    FROM toll.journals AS j
    WHERE j.journal_id = journal AND j.writer >= new AND j.run IS NOT NULL
    ON CONFLICT (journal_id, writer, run) DO UPDATE SET lsn = excluded.lsn, ended_at = excluded.ended_at;
    DELETE FROM toll.journals AS j WHERE j.journal_id = journal AND j.writer >= new;
    INSERT INTO toll.journal_shares (journal_id, from_lsn, writers) VALUES (journal, at_lsn, new);
    -- Somebody must look whether they are idle. Who stores their events from now on finds another's name there, and marks them as shared.
    UPDATE public.billing_sessions AS s
    SET owner_writer = 0
    FROM toll.open_sessions AS o
    WHERE s.session_id = o.session_id AND s.owner_journal = journal AND s.owner_writer >= new AND s.ended_at IS NULL;
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION toll.share_journal(uuid, uuid, bigint, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.share_journal(uuid, uuid, bigint, integer, integer) IS
    'For tolld: changes a journal''s number of writers from old to new, all of which stand at at_lsn. False, and nothing is changed: they do not, or there'
    ' are not so many, or another run moves the watermarks';
