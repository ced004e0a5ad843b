-- Monthly partitions of events and transcripts: making them ahead of time, and dropping old ones.
--
-- Months are months of UTC. A partition is named after its table and month, e.g. toll.billing_events_2025_11;
-- partitions that somebody else attached under other names are left alone.

-- Everything runs under a lock time-out that is shorter than deadlock_timeout's default of 1 s: when partitions and
-- ingest get into each other's way it is these functions that give up, never a batch. Attaching locks
-- billing_sessions, because of the foreign key, and then the default partition: a writer that locks them in this
-- order, too, is waited for and can't get into the way.

CREATE OR REPLACE FUNCTION toll.make_partition(month date)
RETURNS TABLE (partition text, result text, moved_rows bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '900ms'
AS $$
#variable_conflict use_column
DECLARE
    first_day date := date_trunc('month', make_partition.month)::date;
    next_day  date := (date_trunc('month', make_partition.month) + interval '1 month')::date;
    parent    text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['billing_events', 'session_transcripts'] LOOP
        partition := format('%s_%s', parent, to_char(first_day, 'YYYY_MM'));
        moved_rows := 0;
        BEGIN
            IF to_regclass(format('toll.%I', partition)) IS NOT NULL THEN
                result := 'exists';
            ELSIF NOT pg_try_advisory_xact_lock(hashtextextended('toll.partitions', 0)) THEN
                result := 'busy';
            ELSIF to_regclass(format('toll.%I', partition)) IS NOT NULL THEN
                result := 'exists'; -- made by who held the lock until now
            ELSE
                -- All that attaching will lock, at once and in one order. Readers of the default partition wait, too.
                LOCK TABLE public.billing_sessions IN SHARE ROW EXCLUSIVE MODE;
                EXECUTE format('LOCK TABLE ONLY public.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
                EXECUTE format('LOCK TABLE toll.%I IN ACCESS EXCLUSIVE MODE', parent || '_default');
                -- Rows are never updated: freeze them at the first vacuum, and look at new ones early.
                EXECUTE format('CREATE TABLE toll.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS'
                               ' INCLUDING STORAGE INCLUDING COMPRESSION) WITH (autovacuum_freeze_min_age = 0,'
                               ' autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05)',
                               partition, parent);
                EXECUTE format('WITH moved AS (DELETE FROM toll.%I WHERE occurred_at >= %L AND occurred_at < %L'
                               ' RETURNING *) INSERT INTO toll.%I SELECT * FROM moved',
                               parent || '_default', first_day::timestamptz, next_day::timestamptz, partition);
                GET DIAGNOSTICS moved_rows = ROW_COUNT;
                EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION toll.%I FOR VALUES FROM (%L) TO (%L)',
                               parent, partition, first_day::timestamptz, next_day::timestamptz);
                result := 'created';
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            result := 'busy';
            moved_rows := 0;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION toll.make_partition(date) FROM PUBLIC;
COMMENT ON FUNCTION toll.make_partition(date) IS
    'Makes the partitions of the month (UTC) that holds this day, moving what the default partitions hold of it.'
    ' Safe beside ingest, in a transaction of its own. result: created; exists; busy: somebody held a lock for 0.9'
    ' s, nothing was changed, try again later';

CREATE OR REPLACE FUNCTION toll.make_partitions(months_ahead integer)
RETURNS TABLE (partition text, result text, moved_rows bigint)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT made.*
    FROM generate_series(0, least(months_ahead, 120)) AS ahead,
         toll.make_partition((date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date) AS made
$$;
REVOKE ALL ON FUNCTION toll.make_partitions(integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.make_partitions(integer) IS
    'Makes the partitions of the current month (UTC) and of so many months after it: see toll.make_partition';

CREATE OR REPLACE FUNCTION toll.drop_partitions(
    target text, before date, dry_run boolean DEFAULT true, live_too boolean DEFAULT false)
RETURNS TABLE (partition text, result text, removed_rows bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '900ms'
SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    cut      timestamptz := date_trunc('month', before)::timestamptz; -- only whole months go
    doomed   text[];
    unrated  boolean;
    affected uuid[]; -- sessions with rows that go
    live     uuid[]; -- and those of them that have not ended
BEGIN
    IF target IS NULL OR target NOT IN ('billing_events', 'session_transcripts') THEN
        RAISE EXCEPTION 'toll: drop_partitions: target % is neither billing_events nor session_transcripts',
            coalesce(quote_literal(target), 'NULL') USING ERRCODE = 'invalid_parameter_value';
    ELSIF cut IS NULL OR cut > date_trunc('month', now()) THEN
        RAISE EXCEPTION 'toll: drop_partitions: before must lie in the current month or earlier, not %',
            coalesce(before::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- The default partition is the last one: it is not dropped, but rid of rows as old as the others.
    SELECT array_agg(p.partition ORDER BY p.month NULLS LAST) INTO doomed
    FROM toll.partitions p
    WHERE p.parent = target AND (p.month IS NULL OR p.month < cut::date);

    IF NOT dry_run THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('toll.partitions', 0));
        FOREACH partition IN ARRAY doomed LOOP
            EXECUTE format('LOCK TABLE toll.%I IN SHARE ROW EXCLUSIVE MODE', partition);
        END LOOP;
    END IF;

    -- Where nobody has ever rated, nobody is charged; whoever drops months there means it.
    IF target = 'billing_events' AND EXISTS (SELECT FROM toll.rating_progress) THEN
        FOREACH partition IN ARRAY doomed LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM toll.%I AS e JOIN toll.batches_to_rate(0, 9223372036854775807) AS b (batch_id)'
                           ' ON b.batch_id = e.batch_id WHERE e.occurred_at < $1)', partition) INTO unrated USING cut;
            IF unrated THEN
                RAISE EXCEPTION 'toll: drop_partitions: there are events from before % that are not rated yet: nobody would be charged for them', cut::date
                    USING ERRCODE = 'object_not_in_prerequisite_state',
                          HINT = 'See tollctl status for what keeps rating. Where it is switched off for good: toll.rating_settings.unrated_kept.';
            END IF;
        END LOOP;
    END IF;

    affected := '{}';
    FOREACH partition IN ARRAY doomed LOOP
        EXECUTE format('SELECT array_agg(DISTINCT session_id) FROM (SELECT unnest($1) UNION SELECT session_id'
                       ' FROM toll.%I WHERE occurred_at < $2 AND session_id IS NOT NULL) AS s(session_id)', partition)
            INTO affected USING affected, cut;
    END LOOP;
    SELECT array_agg(s.session_id) INTO live FROM public.billing_sessions s
    WHERE s.ended_at IS NULL AND NOT s.sealed AND (s.started_at < cut OR s.session_id = ANY (affected));
    IF live IS NOT NULL AND NOT live_too THEN
        RAISE EXCEPTION 'toll: drop_partitions: % live sessions began before % or have rows from before it',
            cardinality(live), cut::date
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Wait until they end, choose an earlier date, or pass live_too => true.';
    END IF;

    IF target = 'billing_events' AND NOT dry_run THEN
        -- What a session's events can no longer prove is sealed. A live session keeps what its events add up to now.
        UPDATE public.billing_sessions s
        SET llm_input_tokens = t.llm_input_tokens, llm_output_tokens = t.llm_output_tokens, llm_calls = t.llm_calls,
            tts_chars = t.tts_chars, tts_calls = t.tts_calls, stt_audio_ms = t.stt_audio_ms, stt_calls = t.stt_calls
        FROM unnest(live) AS l (session_id)
        CROSS JOIN LATERAL (SELECT * FROM toll.session_sums u WHERE u.session_id = l.session_id OFFSET 0) t
        WHERE s.session_id = l.session_id;
        UPDATE public.billing_sessions s
        SET sealed = true, updated_at = now()
        WHERE NOT s.sealed AND (s.started_at < cut OR s.session_id = ANY (affected));
    END IF;

    FOREACH partition IN ARRAY doomed LOOP
        EXECUTE format('SELECT count(*) FROM toll.%I WHERE occurred_at < $1', partition) INTO removed_rows USING cut;
        IF dry_run THEN
            result := CASE WHEN partition = target || '_default' THEN 'would delete rows' ELSE 'would drop' END;
        ELSE
            EXECUTE format('INSERT INTO toll.removed_rows AS r (batch_id, %1$I)'
                           ' SELECT toll.batch_key(batch_id), sum(rows) FROM (SELECT batch_id, count(*) AS rows FROM toll.%2$I'
                           ' WHERE occurred_at < $1 AND batch_id IS NOT NULL GROUP BY batch_id) AS counted GROUP BY 1'
                           ' ON CONFLICT (batch_id) DO UPDATE SET %1$I = r.%1$I + excluded.%1$I',
                           CASE target WHEN 'billing_events' THEN 'events' ELSE 'transcripts' END, partition) USING cut;
            IF partition = target || '_default' THEN
                EXECUTE format('DELETE FROM toll.%I WHERE occurred_at < $1', partition) USING cut;
                result := 'rows deleted';
            ELSE
                EXECUTE format('DROP TABLE toll.%I', partition);
                result := 'dropped';
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION toll.drop_partitions(text, date, boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION toll.drop_partitions(text, date, boolean, boolean) IS
    'Retention of one table, billing_events or session_transcripts: removes the months before the month of this'
    ' date; by default only says what it would do. Refuses where live sessions reach back that far, unless live_too, and'
    ' where events are not rated yet (toll.batches_to_rate) and rating has ever begun.'
    ' Sessions that lose events are sealed: their totals stay, verify no longer compares them. Ingest into old'
    ' months waits until the caller commits. Error 55P03: busy, try again';

CREATE OR REPLACE FUNCTION toll.drop_quarantine(before timestamptz)
RETURNS bigint
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH gone AS (
        DELETE FROM toll.quarantine WHERE received_at < before RETURNING batch_id
    ), noted AS (
        INSERT INTO toll.removed_rows AS r (batch_id, quarantined)
        SELECT toll.batch_key(batch_id), sum(rows)
        FROM (SELECT batch_id, count(*) AS rows FROM gone WHERE batch_id IS NOT NULL GROUP BY batch_id) AS counted
        GROUP BY 1
        ON CONFLICT (batch_id) DO UPDATE SET quarantined = r.quarantined + excluded.quarantined
    )
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION toll.drop_quarantine(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION toll.drop_quarantine(timestamptz) IS
    'Retention of the quarantine: deletes what was received before this time and returns how many rows that were';

SELECT toll.make_partitions(2);
