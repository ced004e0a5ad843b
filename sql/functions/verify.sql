-- The proof: everything in the database that must add up, added up.
--
-- Each check is a query that yields one row per thing looked at, with the fault in words, or NULL. It may use $1
-- since, $2 the first batch to look at, $3 the ended sessions to look at (NULL: all). STABLE, so all of them see one
-- snapshot: a batch of tolld's is there for all or for none.

CREATE OR REPLACE FUNCTION toll.verify(since timestamptz DEFAULT NULL)
RETURNS TABLE (check_name text, checked bigint, wrong bigint, detail text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET work_mem = '64MB'
SET enable_nestloop = off -- with stale statistics the planner would sum all events once per session
AS $$
#variable_conflict use_column
DECLARE
    first_batch bigint;
    session_ids uuid[];
    query       text;
    sealed      bigint;
BEGIN
    IF since IS NULL THEN
        first_batch := -9223372036854775808;
    ELSE
        first_batch := least((SELECT min(b.batch_id) FROM toll.batches b WHERE b.committed_at >= since),
                             (SELECT min(u.first_batch_id) FROM toll.batch_rollups u WHERE u.committed_at >= since));
        session_ids := ARRAY(SELECT s.session_id FROM public.billing_sessions s
                             WHERE s.ended_at >= since OR s.updated_at >= since);
    END IF;

    FOR check_name, query IN VALUES
    ('session_totals', $check$
        SELECT CASE WHEN stored <> summed
                    THEN format('session %s: stored %s, its events add up to %s (llm input, output, calls, tts chars,'
                                ' calls, stt us, calls)', session_id, stored, summed)
               END
        FROM (SELECT s.session_id,
                     ARRAY[s.llm_input_tokens, s.llm_output_tokens, s.llm_calls, s.tts_chars, s.tts_calls,
                           round((s.stt_audio_ms * 1000)::numeric), s.stt_calls] AS stored,
                     ARRAY[coalesce(t.llm_input_tokens, 0), coalesce(t.llm_output_tokens, 0), coalesce(t.llm_calls, 0),
                           coalesce(t.tts_chars, 0), coalesce(t.tts_calls, 0),
                           round((coalesce(t.stt_audio_ms, 0) * 1000)::numeric), coalesce(t.stt_calls, 0)] AS summed
              FROM public.billing_sessions s
              LEFT JOIN (SELECT * FROM toll.session_sums u WHERE $3 IS NULL OR u.session_id = ANY ($3)) t
                  ON t.session_id = s.session_id
              WHERE s.ended_at IS NOT NULL AND NOT s.sealed AND ($3 IS NULL OR s.session_id = ANY ($3))) AS compared
    $check$),
    ('session_durations', $check$
        SELECT CASE WHEN ended_at < started_at THEN format('session %s ends before it starts', session_id)
                    WHEN round(duration_secs * 1000000)::bigint IS DISTINCT FROM
                         round(extract(epoch FROM ended_at - started_at) * 1000000)::bigint
                    THEN format('session %s: duration_secs %s is not ended_at - started_at', session_id,
                                coalesce(duration_secs::text, 'NULL'))
                    WHEN finish_reason IS NULL THEN format('session %s has ended without a finish_reason', session_id)
               END
        FROM public.billing_sessions
        WHERE ended_at IS NOT NULL AND NOT sealed AND ($3 IS NULL OR session_id = ANY ($3))
    $check$),
    ('live_sessions', $check$
        SELECT CASE WHEN (llm_input_tokens, llm_output_tokens, llm_calls, tts_chars, tts_calls, stt_audio_ms, stt_calls)
                         <> (0, 0, 0, 0, 0, 0, 0)
                    THEN format('session %s is live and has totals already', session_id)
                    WHEN duration_secs IS NOT NULL OR finish_reason IS NOT NULL
                    THEN format('session %s has a duration or a finish_reason, but no end', session_id)
                    WHEN NOT EXISTS (SELECT FROM toll.open_sessions o WHERE o.session_id = s.session_id)
                    THEN format('session %s is live, but not in toll.open_sessions', session_id)
               END
        FROM public.billing_sessions s
        WHERE ended_at IS NULL AND NOT sealed
        UNION ALL
        SELECT format('session %s is in toll.open_sessions, but not live', session_id)
        FROM toll.open_sessions o
        WHERE NOT EXISTS (SELECT FROM public.billing_sessions s WHERE s.session_id = o.session_id AND s.ended_at IS NULL)
    $check$),
    ('batch_ranges', $check$
        SELECT CASE WHEN b.from_lsn <> b.previous_lsn
                         -- A writer that was not there for a while: from one change of their number to another.
                         AND NOT (EXISTS (SELECT FROM toll.journal_shares c WHERE c.journal_id = b.journal_id
                                          AND c.from_lsn = b.previous_lsn AND c.writers <= b.writer)
                                  AND EXISTS (SELECT FROM toll.journal_shares c WHERE c.journal_id = b.journal_id
                                              AND c.from_lsn = b.from_lsn AND c.writers > b.writer))
                    THEN format('batch %s begins at %s, the one before it ends at %s', b.batch_id, b.from_lsn,
                                b.previous_lsn)
                    WHEN b.is_last AND j.lsn IS DISTINCT FROM b.to_lsn
                         AND NOT EXISTS (SELECT FROM toll.journal_shares c WHERE c.journal_id = b.journal_id
                                         AND ((j.lsn IS NULL AND c.from_lsn = b.to_lsn AND c.writers <= b.writer)
                                              OR (c.from_lsn = j.lsn AND c.writers > b.writer)))
                    THEN format('batch %s ends at %s, the watermark of journal %s writer %s is %s', b.batch_id,
                                b.to_lsn, b.journal_id, b.writer, coalesce(j.lsn::text, 'gone'))
               END
        FROM (SELECT *, lag(to_lsn) OVER w AS previous_lsn, lead(from_lsn) OVER w IS NULL AS is_last
              FROM (SELECT batch_id, journal_id, writer, from_lsn, to_lsn FROM toll.batches
                    UNION ALL
                    SELECT last_batch_id, journal_id, writer, from_lsn, to_lsn FROM toll.batch_rollups) AS all_batches
              WHERE batch_id >= $2
              WINDOW w AS (PARTITION BY journal_id, writer ORDER BY from_lsn)) b
        LEFT JOIN toll.journals j ON j.journal_id = b.journal_id AND j.writer = b.writer
    $check$),
    ('batch_frames', $check$
        SELECT CASE WHEN received <> stored + quarantined + duplicates
                    THEN format('batch %s: %s received, %s + %s + %s accounted for', batch_id, received, stored,
                                quarantined, duplicates)
                    WHEN events + transcripts > stored
                    THEN format('batch %s: %s events and %s transcripts of %s stored frames', batch_id, events,
                                transcripts, stored)
               END
        FROM (SELECT batch_id, received, stored, quarantined, duplicates, events, transcripts FROM toll.batches
              UNION ALL
              SELECT last_batch_id, received, stored, quarantined, duplicates, events, transcripts FROM toll.batch_rollups) AS all_batches
        WHERE batch_id >= $2
    $check$),
    ('batch_events',      toll.verify_rows_query('events', 'public.billing_events')),
    ('batch_transcripts', toll.verify_rows_query('transcripts', 'public.session_transcripts')),
    ('batch_quarantine',  toll.verify_rows_query('quarantined', 'toll.quarantine')),
    ('event_sessions', $check$
        SELECT CASE WHEN s.session_id IS NULL THEN format('event %s: there is no session %s', e.id, e.session_id)
               END
        FROM public.billing_events e LEFT JOIN public.billing_sessions s ON s.session_id = e.session_id
        WHERE e.session_id IS NOT NULL AND ($1 IS NULL OR e.batch_id >= $2)
    $check$),
    ('transcript_sessions', $check$
        SELECT CASE WHEN s.session_id IS NULL THEN format('transcript %s: there is no session %s', r.id, r.session_id)
               END
        FROM public.session_transcripts r LEFT JOIN public.billing_sessions s ON s.session_id = r.session_id
        WHERE $1 IS NULL OR r.batch_id >= $2
    $check$),
    ('stream_holes', $check$
        SELECT CASE WHEN h.stream_id IS NOT NULL
                    THEN format('stream %s of uid %s: %s frames missing from %s to %s', h.stream_id, h.uid, h.missing,
                                h.from_seq, h.to_seq)
               END
        FROM (SELECT uid, stream_id, max(last_seen_at) AS last_seen_at FROM toll.streams GROUP BY uid, stream_id) s
        LEFT JOIN toll.stream_holes h ON h.uid = s.uid AND h.stream_id = s.stream_id
        WHERE $1 IS NULL OR s.last_seen_at >= $1
    $check$)
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L, count(*), count(fault),'
            ' coalesce(array_to_string((array_agg(fault) FILTER (WHERE fault IS NOT NULL))[1:3], ''; ''), '''')'
            ' FROM (%s) AS looked_at (fault)', check_name, query)
            USING since, first_batch, session_ids;
    END LOOP;

    -- For information: what is known to be missing, refused or beyond proof.
    RETURN QUERY SELECT 'gaps', count(*), 0::bigint,
                        format('%s frames refused by workers whose ring was full', coalesce(sum(g.count), 0))
                 FROM toll.gaps g WHERE verify.since IS NULL OR g.batch_id >= first_batch;
    RETURN QUERY SELECT 'quarantine', count(*), 0::bigint, format('%s frames in quarantine', count(*))
                 FROM toll.quarantine q WHERE verify.since IS NULL OR q.batch_id >= first_batch;
    SELECT count(*) INTO sealed FROM public.billing_sessions s WHERE s.sealed;
    RETURN QUERY SELECT 'sealed_sessions', sealed, 0::bigint,
                        format('%s sessions whose events retention has dropped, not compared', sealed);
END $$;
REVOKE ALL ON FUNCTION toll.verify(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION toll.verify(timestamptz) IS
    'Compares totals with stored events, batches with stored rows, ranges with watermarks, and looks for orphans'
    ' and holes. All is well when wrong is 0 in every row; detail shows the first three faults. since: only sessions'
    ' that ended or changed, batches that were stored and streams that sent since then; rows that toll did not store'
    ' are only looked at without it';

CREATE OR REPLACE FUNCTION toll.verify_rows_query(counter name, rows_of regclass)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($query$
        SELECT CASE WHEN b.expected IS NULL THEN format('%1$s: %%s rows of batch %%s, which does not exist', r.found,
                                                           r.batch_id)
                    WHEN b.expected <> coalesce(r.found, 0) + coalesce(x.%1$I, 0)
                    THEN format('%1$s: batch %%s stored %%s rows, %%s are there and %%s were removed by retention',
                                b.batch_id, b.expected, coalesce(r.found, 0), coalesce(x.%1$I, 0))
               END
        FROM (SELECT batch_id, %1$I AS expected FROM toll.batches WHERE batch_id >= $2
              UNION ALL
              SELECT last_batch_id, sum(%1$I) FROM toll.batch_rollups WHERE last_batch_id >= $2 GROUP BY last_batch_id) b
        FULL JOIN (SELECT CASE WHEN k.batch_id IS NULL THEN toll.batch_key(c.batch_id) ELSE c.batch_id END AS batch_id, sum(c.found) AS found
                   FROM (SELECT batch_id, count(*) AS found FROM %2$s WHERE batch_id >= $2 GROUP BY batch_id) c
                   LEFT JOIN toll.batches k ON k.batch_id = c.batch_id
                   GROUP BY 1) r
            ON r.batch_id = b.batch_id
        LEFT JOIN toll.removed_rows x ON x.batch_id = b.batch_id
    $query$, counter, rows_of)
$$;
REVOKE ALL ON FUNCTION toll.verify_rows_query(name, regclass) FROM PUBLIC;
COMMENT ON FUNCTION toll.verify_rows_query(name, regclass) IS
    'For toll.verify: the query that compares a counter of toll.batches with the rows that carry the batch''s number';
