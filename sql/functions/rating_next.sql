-- The next stored batches of one journal and writer: rated in the order of the journal, in one transaction with the watermark. See toll.rate_next.

CREATE OR REPLACE FUNCTION toll.lock_progress(journal uuid, writer integer)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at bigint;
BEGIN
    SELECT p.lsn INTO at FROM toll.rating_progress AS p
    WHERE p.journal_id = lock_progress.journal AND p.writer = lock_progress.writer FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO toll.rating_progress (journal_id, writer, lsn)
        SELECT lock_progress.journal, lock_progress.writer,
               coalesce((SELECT b.from_lsn FROM toll.batches AS b
                         WHERE b.journal_id = lock_progress.journal AND b.writer = lock_progress.writer ORDER BY b.from_lsn LIMIT 1), 0)
        ON CONFLICT (journal_id, writer) DO NOTHING;
        SELECT p.lsn INTO at FROM toll.rating_progress AS p
        WHERE p.journal_id = lock_progress.journal AND p.writer = lock_progress.writer FOR UPDATE;
    END IF;
    RETURN at;
END $$;
REVOKE ALL ON FUNCTION toll.lock_progress(uuid, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.lock_progress(uuid, integer) IS 'Rating''s watermark of this journal and writer, locked until the transaction ends';

CREATE OR REPLACE FUNCTION toll.next_batches(
    journal uuid, writer integer, at bigint, most_events integer,
    OUT batch_ids bigint[], OUT first_ids bigint[], OUT last_ids bigint[], OUT events bigint, OUT to_lsn bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    unknown bigint[];
BEGIN
    SELECT array_agg(b.batch_id) FILTER (WHERE b.known), array_agg(b.first_event_id) FILTER (WHERE b.known),
           array_agg(b.last_event_id) FILTER (WHERE b.known), array_agg(b.batch_id) FILTER (WHERE NOT b.known AND b.events > 0),
           coalesce(sum(b.events), 0), max(b.to_lsn)
    INTO batch_ids, first_ids, last_ids, unknown, next_batches.events, next_batches.to_lsn
    FROM (SELECT n.*, sum(n.events) OVER (ORDER BY n.from_lsn) - n.events AS before,
                 -- A connection takes a thousand numbers at a time: where it rested among them, others' lie between.
                 coalesce(n.events > 0 AND n.last_event_id - n.first_event_id < 20 * n.events + 2000, false) AS known
          FROM (SELECT b.batch_id, b.from_lsn, b.to_lsn, b.events, b.first_event_id, b.last_event_id
                FROM toll.batches AS b
                WHERE b.journal_id = next_batches.journal AND b.writer = next_batches.writer AND b.from_lsn >= next_batches.at
                ORDER BY b.from_lsn LIMIT 1000) AS n) AS b
    WHERE b.before < next_batches.most_events OR b.before = 0;
    IF unknown IS NOT NULL THEN
        SELECT batch_ids || array_agg(i.batch_id), first_ids || array_agg(i.first_id), last_ids || array_agg(i.last_id)
        INTO batch_ids, first_ids, last_ids
        FROM (SELECT g.batch_id, min(g.id) AS first_id, max(g.id) AS last_id
              FROM (SELECT h.batch_id, h.id, count(*) FILTER (WHERE h.far) OVER (PARTITION BY h.batch_id ORDER BY h.id) AS island
                    FROM (SELECT e.batch_id, e.id,
                                 e.id - lag(e.id) OVER (PARTITION BY e.batch_id ORDER BY e.id) > 1000 AS far
                          FROM public.billing_events AS e WHERE e.batch_id = ANY (unknown)) AS h) AS g
              GROUP BY g.batch_id, g.island) AS i;
    END IF;
END $$;
REVOKE ALL ON FUNCTION toll.next_batches(uuid, integer, bigint, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.next_batches(uuid, integer, bigint, integer) IS
    'The stored batches of this journal and writer from this LSN on: whole ones, at least one, until they have so many events; the ranges of their events'' numbers;'
    ' and where they end (NULL: there are none)';

CREATE OR REPLACE FUNCTION toll.rate_next(
    journal uuid, writer integer, most_events integer,
    OUT events bigint, OUT lines bigint, OUT sessions bigint, OUT lsn bigint, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Events by their numbers, sessions and accounts by their keys, however large the tables were when this was planned.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET work_mem = '64MB'
AS $$
#variable_conflict use_column
DECLARE
    most_queued CONSTANT integer := 10000;
    stored     bigint;
    at         bigint;
    next       record;
    queued     uuid[];
    seen       uuid[];
    voiced     uuid[];
    named      text[];
    latencies  toll.latency_rollup[];
    to_meet    uuid[];
    met        boolean := false;
    resolved   uuid[] := '{}';
    businesses text[] := '{}';
    begun      uuid[] := '{}';
    to_bill    uuid[];
    inputs     toll.rating_input[];
    rated      toll.rated_line[];
BEGIN
    PERFORM toll.rating_begins();
    at := toll.lock_progress(journal, writer);
    stored := (SELECT j.lsn FROM toll.journals AS j WHERE j.journal_id = rate_next.journal AND j.writer = rate_next.writer);
    next := toll.next_batches(journal, writer, at, most_events);
    WITH taken AS (
        DELETE FROM toll.session_queue AS q
        WHERE q.ctid = ANY (ARRAY(SELECT f.ctid FROM toll.session_queue AS f
                                  WHERE f.journal_id = rate_next.journal AND f.writer = rate_next.writer LIMIT most_queued))
        RETURNING q.session_id)
    SELECT array_agg(t.session_id) INTO queued FROM taken AS t;
    to_meet := queued;

    IF next.to_lsn IS NULL AND queued IS NULL THEN
        events := 0; lines := 0; sessions := 0; more := false; lsn := greatest(at, stored);
        -- The watermark may have moved without a batch. What is committed below `stored` by now was committed when batches were looked for.
        UPDATE toll.rating_progress AS p SET lsn = rate_next.lsn WHERE p.journal_id = rate_next.journal AND p.writer = rate_next.writer
                                                                   AND p.lsn < rate_next.lsn;
        RETURN;
    END IF;

    LOOP
        IF cardinality(to_meet) > 0 THEN
            SELECT begun || coalesce(array_agg(m.session_id), '{}'), resolved || coalesce(array_agg(m.session_id) FILTER (WHERE NOT m.is_new), '{}'),
                   businesses || coalesce(array_agg(m.old_business_id) FILTER (WHERE NOT m.is_new), '{}')
            INTO begun, resolved, businesses
            FROM toll.meet_sessions(to_meet) AS m;
        END IF;
        WITH e AS MATERIALIZED (
            SELECT e.*
            FROM unnest(next.batch_ids, next.first_ids, next.last_ids) AS r (batch_id, first_id, last_id)
            CROSS JOIN LATERAL (
                SELECT e.session_id, e.account, e.occurred_at, e.event_type, e.provider, e.model, e.meter, e.ttfb_ms, e.duration_ms, e.input
                FROM toll.rating_events AS e
                WHERE e.id BETWEEN r.first_id AND r.last_id AND e.batch_id = r.batch_id OFFSET 0) AS e)
        SELECT ARRAY(SELECT e.input FROM e), -- in the order of their numbers, mostly: nothing depends on it
               ARRAY(SELECT e.session_id FROM e WHERE e.session_id IS NOT NULL GROUP BY 1),
               ARRAY(SELECT e.session_id FROM e
                     WHERE e.session_id IS NOT NULL AND (e.event_type IN ('stt', 'tts') OR e.meter IN ('telephony_inbound', 'telephony_outbound'))
                     GROUP BY 1),
               ARRAY(SELECT e.session_id FROM e WHERE e.session_id IS NOT NULL AND (e.input).account_id IS NULL GROUP BY 1),
               ARRAY(SELECT e.account FROM e WHERE e.session_id IS NULL AND (e.input).account_id IS NULL GROUP BY 1),
               ARRAY(SELECT ROW(date_bin('15 minutes', e.occurred_at, '2000-01-01 00:00:00+00'),
                                CASE e.event_type WHEN 'usage' THEN 'meter' ELSE e.event_type END, coalesce(e.provider, ''),
                                coalesce(CASE e.event_type WHEN 'usage' THEN e.meter ELSE e.model END, ''), m.metric,
                                toll.latency_bucket(m.ms), count(*))::toll.latency_rollup
                     FROM e CROSS JOIN LATERAL (VALUES ('ttfb', e.ttfb_ms), ('duration', e.duration_ms)) AS m (metric, ms)
                     WHERE m.ms >= 0 AND m.ms < 'Infinity'
                     GROUP BY date_bin('15 minutes', e.occurred_at, '2000-01-01 00:00:00+00'),
                              CASE e.event_type WHEN 'usage' THEN 'meter' ELSE e.event_type END, coalesce(e.provider, ''),
                              coalesce(CASE e.event_type WHEN 'usage' THEN e.meter ELSE e.model END, ''), m.metric, toll.latency_bucket(m.ms))
        INTO inputs, seen, voiced, to_meet, named, latencies;
        -- Who has an account keeps it. Others are met, and those whose account is not known locked, before their events are read for good.
        EXIT WHEN met OR (to_meet = '{}' AND named = '{}');
        PERFORM toll.meet_accounts(named);
        met := true;
    END LOOP;
    to_bill := resolved || coalesce(queued, '{}')
               || ARRAY(SELECT r.session_id FROM toll.rated_sessions AS r WHERE r.session_id = ANY (voiced) AND NOT r.voice);
    rated := toll.price_events(inputs);
    IF cardinality(resolved) > 0 THEN
        rated := rated || toll.move_lines(resolved, businesses);
    END IF;
    IF cardinality(to_bill) > 0 THEN
        rated := rated || toll.bill_sessions(to_bill, voiced, resolved, businesses);
    END IF;
    lines := toll.book_lines(rated, to_bill || begun);

    PERFORM toll.count_latencies(latencies);
    events := next.events;
    sessions := cardinality(seen || coalesce(queued, '{}'));
    lsn := coalesce(next.to_lsn, greatest(at, stored));
    more := coalesce(cardinality(queued) = most_queued, false)
            OR EXISTS (SELECT FROM toll.batches AS b
                       WHERE b.journal_id = rate_next.journal AND b.writer = rate_next.writer AND b.from_lsn >= rate_next.lsn);
    UPDATE toll.rating_progress AS p SET lsn = rate_next.lsn, events = p.events + rate_next.events, rated_at = clock_timestamp()
    WHERE p.journal_id = rate_next.journal AND p.writer = rate_next.writer;
END $$;
REVOKE ALL ON FUNCTION toll.rate_next(uuid, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.rate_next(uuid, integer, integer) IS
    'Rates the next stored batches of this journal and writer, whole ones, until they have so many events, in one transaction with rating''s watermark; READ'
    ' COMMITTED. events, lines (the ends of sessions, which only roll-ups count, among them), sessions: how many; lsn: rated up to there; more: there was more stored. Safe to repeat after any error';
