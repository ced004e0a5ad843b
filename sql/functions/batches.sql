-- Old batches: rolled up, many rows of toll.batches into one, so that every stored row can still be accounted for.

-- Rating knows what it has not come to by these rows: one that went without it would take usage along that is never charged, and says so nowhere. So they
-- wait, also where nothing was ever rated: rating may be switched on tomorrow.
CREATE OR REPLACE FUNCTION toll.batches_to_rate(first_id bigint, last_id bigint)
RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given_up timestamptz := (SELECT now() - s.unrated_kept FROM toll.rating_settings AS s);
BEGIN
    RETURN QUERY
    SELECT b.batch_id FROM toll.batches AS b
    LEFT JOIN toll.rating_progress AS p ON p.journal_id = b.journal_id AND p.writer = b.writer
    WHERE b.batch_id BETWEEN first_id AND last_id AND b.events > 0 AND (p.lsn IS NULL OR p.lsn < b.to_lsn)
      AND (given_up IS NULL OR b.committed_at > given_up);
END $$;
REVOKE ALL ON FUNCTION toll.batches_to_rate(bigint, bigint) FROM PUBLIC;
COMMENT ON FUNCTION toll.batches_to_rate(bigint, bigint) IS
    'Those of these batches whose events are still to be rated: rating has not passed them, and toll.rating_settings.unrated_kept, which is for databases where'
    ' rating is switched off for good, has not given them up';

-- What must happen to a batch before its row may go; whoever reads toll.batches later than tolld adds a condition here.
CREATE OR REPLACE FUNCTION toll.batches_done(first_id bigint, last_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM toll.batches_to_rate(first_id, last_id));
END $$;
REVOKE ALL ON FUNCTION toll.batches_done(bigint, bigint) FROM PUBLIC;
COMMENT ON FUNCTION toll.batches_done(bigint, bigint) IS
    'Whether all that needs the rows of these batches in toll.batches is done with them: rating, above all (toll.batches_to_rate)';

CREATE OR REPLACE FUNCTION toll.prune_batches(older_than interval)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER -- nobody else deletes from toll.batches
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    together CONSTANT bigint := 20000; -- some 0.2 s, and bookkeeping that grows by one row for so many
    first_id bigint;
    last_id  bigint;
    number   bigint;
    newest   timestamptz;
    heard    timestamptz;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('toll.batches', 0)) THEN
        RETURN 0; -- another daemon is at it
    END IF;
    first_id := coalesce((SELECT max(u.last_batch_id) FROM toll.batch_rollups AS u), 0) + 1;
    SELECT count(*), max(b.batch_id), max(b.committed_at), max(b.last_received_at) INTO number, last_id, newest, heard
    FROM (SELECT * FROM toll.batches AS a WHERE a.batch_id >= first_id ORDER BY a.batch_id LIMIT together) AS b;
    IF number < together OR newest >= now() - older_than OR NOT toll.batches_done(first_id, last_id) THEN
        RETURN 0;
    END IF;

    INSERT INTO toll.batch_rollups (
        journal_id, writer, from_lsn, to_lsn, first_batch_id, last_batch_id, batches, received, stored, quarantined, duplicates, events,
        transcripts, first_received_at, last_received_at, committed_at)
    SELECT p.journal_id, p.writer, min(p.from_lsn), max(p.to_lsn), first_id, last_id, count(*), sum(p.received), sum(p.stored),
           sum(p.quarantined), sum(p.duplicates), sum(p.events), sum(p.transcripts), min(p.first_received_at), heard, max(p.committed_at)
    FROM (
        -- A gap stays one: toll.verify() has to see it.
        SELECT f.*, count(*) FILTER (WHERE f.from_lsn IS DISTINCT FROM f.previous_lsn) OVER w AS part
        FROM (SELECT b.*, lag(b.to_lsn) OVER (PARTITION BY b.journal_id, b.writer ORDER BY b.from_lsn) AS previous_lsn
              FROM toll.batches AS b WHERE b.batch_id BETWEEN first_id AND last_id) AS f
        WINDOW w AS (PARTITION BY f.journal_id, f.writer ORDER BY f.from_lsn)) AS p
    GROUP BY p.journal_id, p.writer, p.part;
    WITH gone AS (
        DELETE FROM toll.removed_rows AS r WHERE r.batch_id BETWEEN first_id AND last_id RETURNING r.*
    )
    INSERT INTO toll.removed_rows (batch_id, events, transcripts, quarantined)
    SELECT last_id, sum(g.events), sum(g.transcripts), sum(g.quarantined) FROM gone AS g HAVING count(*) > 0;
    DELETE FROM toll.batches AS b WHERE b.batch_id BETWEEN first_id AND last_id;
    RETURN number;
END $$;
REVOKE ALL ON FUNCTION toll.prune_batches(interval) FROM PUBLIC;
COMMENT ON FUNCTION toll.prune_batches(interval) IS
    'For tolld, now and then: rolls the oldest 20,000 batches up into toll.batch_rollups, if all of them are older than this and toll.batches_done() says'
    ' so of them: rating has passed them, or was given up (toll.rating_settings.unrated_kept). Returns how many rows of toll.batches went: so many, or none. In a transaction of its own';

CREATE OR REPLACE FUNCTION toll.batch_key(batch bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM toll.batches AS b WHERE b.batch_id = batch) THEN
        RETURN batch;
    END IF;
    RETURN coalesce((SELECT CASE WHEN u.first_batch_id <= batch THEN u.last_batch_id END
                     FROM toll.batch_rollups AS u WHERE u.last_batch_id >= batch ORDER BY u.last_batch_id LIMIT 1), batch);
END $$;
REVOKE ALL ON FUNCTION toll.batch_key(bigint) FROM PUBLIC;
COMMENT ON FUNCTION toll.batch_key(bigint) IS
    'The number under which a batch''s rows are counted: its own, or last_batch_id of those that it was rolled up with';
