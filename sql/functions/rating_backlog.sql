-- For tolld: what is stored and not rated, whoever stored it, and rating it where nobody else is at it.

CREATE OR REPLACE FUNCTION toll.rating_backlog()
RETURNS TABLE (journal_id uuid, writer integer, lsn bigint, waits boolean, waiting_events bigint, waiting_us bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    -- Batches are the truth: a writer that was given up, or a journal that was renewed, is not in toll.journals any more.
    RETURN QUERY
    WITH RECURSIVE stored AS (
        (SELECT b.journal_id, b.writer FROM toll.batches AS b ORDER BY b.journal_id, b.writer LIMIT 1)
        UNION ALL
        SELECT n.journal_id, n.writer
        FROM stored AS s
        CROSS JOIN LATERAL (
            SELECT b.journal_id, b.writer
            FROM toll.batches AS b
            WHERE (b.journal_id, b.writer) > (s.journal_id, s.writer)
            ORDER BY b.journal_id, b.writer
            LIMIT 1) AS n
    ), queued AS (
        SELECT DISTINCT q.journal_id, q.writer FROM toll.session_queue AS q
    )
    SELECT journal_id, writer, p.lsn, w.batches > 0 OR q.journal_id IS NOT NULL, coalesce(w.events, 0)::bigint,
           coalesce((extract(epoch FROM clock_timestamp() - w.since) * 1000000)::bigint, 0)
    FROM stored AS s
    FULL JOIN queued AS q USING (journal_id, writer)
    LEFT JOIN toll.rating_progress AS p USING (journal_id, writer)
    CROSS JOIN LATERAL (
        SELECT count(*) AS batches, sum(f.events) AS events, min(f.committed_at) AS since
        FROM (SELECT b.events, b.committed_at
              FROM toll.batches AS b
              WHERE b.journal_id = coalesce(s.journal_id, q.journal_id) AND b.writer = coalesce(s.writer, q.writer)
                AND b.from_lsn >= coalesce(p.lsn, 0)
              ORDER BY b.from_lsn
              LIMIT 1000) AS f) AS w
    WHERE w.batches > 0 OR q.journal_id IS NOT NULL OR p.rated_at >= now() - interval '1 minute';
END $$;
REVOKE ALL ON FUNCTION toll.rating_backlog() FROM PUBLIC;
COMMENT ON FUNCTION toll.rating_backlog() IS
    'For tolld: each journal and writer of which something is stored and not rated, or that was rated within the last minute. lsn: rated below, NULL:'
    ' nothing yet; waits: there is something to rate; waiting_events, waiting_us: events in the batches that wait (the first thousand), and since when the first of them has been stored';

CREATE OR REPLACE FUNCTION toll.rate_free(
    journal uuid, writer integer, most_events integer,
    OUT events bigint, OUT lines bigint, OUT sessions bigint, OUT lsn bigint, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM
    FROM toll.rating_progress AS p
    WHERE p.journal_id = rate_free.journal AND p.writer = rate_free.writer
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND EXISTS (SELECT FROM toll.rating_progress AS p
                             WHERE p.journal_id = rate_free.journal AND p.writer = rate_free.writer) THEN
        RETURN;
    END IF;
    -- Nothing is lost with a crash of the server but what is rated again: lines, debits and the watermark go together. So nobody waits for the disk.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT r.events, r.lines, r.sessions, r.lsn, r.more
    INTO rate_free.events, rate_free.lines, rate_free.sessions, rate_free.lsn, rate_free.more
    FROM toll.rate_next(rate_free.journal, rate_free.writer, rate_free.most_events) AS r;
END $$;
REVOKE ALL ON FUNCTION toll.rate_free(uuid, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.rate_free(uuid, integer, integer) IS
    'For tolld: toll.rate_next(), or NULLs, at once, where somebody else is rating that journal and writer';
