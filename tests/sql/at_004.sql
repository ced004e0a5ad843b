

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

CREATE SCHEMA toll;

ALTER SCHEMA toll OWNER TO toll_owner;

COMMENT ON SCHEMA toll IS 'Bookkeeping of the metering daemon tolld; what it meters is in public.billing_sessions and its like';

CREATE FUNCTION toll.claim_journal(journal uuid, writer integer, last_run uuid, this_run uuid) RETURNS TABLE(lsn bigint, taken_from bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

ALTER FUNCTION toll.claim_journal(journal uuid, writer integer, last_run uuid, this_run uuid) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.claim_journal(journal uuid, writer integer, last_run uuid, this_run uuid) IS 'For tolld, on connecting: makes this_run the one that moves the journal''s watermark, and returns that; no row: there is none. last_run is the run that the journal''s files remember. If another run has moved the watermark since that one, the journal is in use twice: nothing is changed, and taken_from says how far last_run had come';

CREATE FUNCTION toll.drop_partitions(target text, before date, dry_run boolean DEFAULT true, live_too boolean DEFAULT false) RETURNS TABLE(partition text, result text, removed_rows bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET lock_timeout TO '900ms'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $_$
#variable_conflict use_column
DECLARE
    cut      timestamptz := date_trunc('month', before)::timestamptz; -- only whole months go
    doomed   text[];
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
                           ' SELECT batch_id, count(*) FROM toll.%2$I WHERE occurred_at < $1 AND batch_id IS NOT NULL'
                           ' GROUP BY batch_id'
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
END $_$;

ALTER FUNCTION toll.drop_partitions(target text, before date, dry_run boolean, live_too boolean) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.drop_partitions(target text, before date, dry_run boolean, live_too boolean) IS 'Retention of one table, billing_events or session_transcripts: removes the months before the month of this date; by default only says what it would do. Refuses where live sessions reach back that far, unless live_too. Sessions that lose events are sealed: their totals stay, verify no longer compares them. Ingest into old months waits until the caller commits. Error 55P03: busy, try again';

CREATE FUNCTION toll.drop_quarantine(before timestamp with time zone) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH gone AS (
        DELETE FROM toll.quarantine WHERE received_at < before RETURNING batch_id
    ), noted AS (
        INSERT INTO toll.removed_rows AS r (batch_id, quarantined)
        SELECT batch_id, count(*) FROM gone WHERE batch_id IS NOT NULL GROUP BY batch_id
        ON CONFLICT (batch_id) DO UPDATE SET quarantined = r.quarantined + excluded.quarantined
    )
    SELECT count(*) FROM gone
$$;

ALTER FUNCTION toll.drop_quarantine(before timestamp with time zone) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.drop_quarantine(before timestamp with time zone) IS 'Retention of the quarantine: deletes what was received before this time and returns how many rows that were';

CREATE FUNCTION toll.erase_session(session_id uuid) RETURNS TABLE(sessions bigint, transcripts bigint, gaps bigint, quarantined bigint, live uuid[])
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT * FROM toll.erase_sessions(ARRAY[session_id])
$$;

ALTER FUNCTION toll.erase_session(session_id uuid) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.erase_session(session_id uuid) IS 'Erases a session''s transcript text and metadata; usage rows and totals stay, and so do the transcript''s rows, with text NULL. Returns how many rows were blanked. A session in live still goes on and may bring more: erase it again when it has ended';

CREATE FUNCTION toll.erase_sessions(session_ids uuid[]) RETURNS TABLE(sessions bigint, transcripts bigint, gaps bigint, quarantined bigint, live uuid[])
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH s AS (
        UPDATE public.billing_sessions
        SET metadata = '{}', raw_json = NULL, updated_at = now()
        WHERE session_id = ANY (session_ids)
        RETURNING session_id, ended_at
    ), t AS (
        UPDATE public.session_transcripts
        SET text = NULL, language = NULL, raw_json = NULL
        WHERE session_id = ANY (session_ids)
        RETURNING 1
    ), g AS (
        UPDATE toll.gaps
        SET raw_json = NULL
        WHERE session_id = ANY (session_ids) AND raw_json IS NOT NULL
        RETURNING 1
    ), q AS (
        -- A refused frame names its session as 16 bytes or as text.
        UPDATE toll.quarantine
        SET bytes = '', reason = 'erased'
        WHERE EXISTS (SELECT FROM unnest(session_ids) AS id
                      WHERE position(uuid_send(id) IN bytes) > 0
                         OR position(convert_to(id::text, 'UTF8') IN bytes) > 0
                         OR position(convert_to(upper(id::text), 'UTF8') IN bytes) > 0)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM s), (SELECT count(*) FROM t), (SELECT count(*) FROM g), (SELECT count(*) FROM q),
           ARRAY(SELECT session_id FROM s WHERE ended_at IS NULL)
$$;

ALTER FUNCTION toll.erase_sessions(session_ids uuid[]) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.erase_sessions(session_ids uuid[]) IS 'Erases several sessions at once: see toll.erase_session';

CREATE FUNCTION toll.erase_user(user_id text) RETURNS TABLE(sessions bigint, transcripts bigint, gaps bigint, quarantined bigint, live uuid[])
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT * FROM toll.erase_sessions(
        ARRAY(SELECT s.session_id FROM public.billing_sessions s WHERE s.metadata ->> 'user_id' = erase_user.user_id))
$$;

ALTER FUNCTION toll.erase_user(user_id text) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.erase_user(user_id text) IS 'Erases all sessions whose metadata names this user_id: see toll.erase_session. Afterwards nothing says which sessions they were';

CREATE FUNCTION toll.idle_sessions(journal uuid, writer integer, silent_secs integer, idle_before_us bigint, most bigint) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    -- Idle is measured in receive time, which is on the batches.
    idle_before timestamptz := to_timestamp(idle_before_us / 1e6);
BEGIN
    RETURN QUERY
    SELECT s.session_id
    FROM public.billing_sessions AS s
    LEFT JOIN toll.journals AS j ON j.journal_id = s.owner_journal AND j.writer = s.owner_writer
    WHERE s.ended_at IS NULL
      AND ((s.owner_journal = idle_sessions.journal AND s.owner_writer = idle_sessions.writer)
           OR j.seen_at IS NULL OR j.seen_at < now() - make_interval(secs => silent_secs))
      AND s.updated_at < idle_before
      AND NOT EXISTS (SELECT FROM public.billing_events AS e JOIN toll.batches AS b ON b.batch_id = e.batch_id
                      WHERE e.session_id = s.session_id AND b.last_received_at >= idle_before)
      AND NOT EXISTS (SELECT FROM public.session_transcripts AS t JOIN toll.batches AS b ON b.batch_id = t.batch_id
                      WHERE t.session_id = s.session_id AND b.last_received_at >= idle_before)
    LIMIT most;
END $$;

ALTER FUNCTION toll.idle_sessions(journal uuid, writer integer, silent_secs integer, idle_before_us bigint, most bigint) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.idle_sessions(journal uuid, writer integer, silent_secs integer, idle_before_us bigint, most bigint) IS 'For tolld: live sessions of this journal and writer, or of one that was silent for so many seconds, of which nothing was received since idle_before_us (microseconds since the epoch); at most so many. They are to be closed as orphaned';

CREATE FUNCTION toll.insert_sessions(journal uuid, writer integer) RETURNS SETOF uuid
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN QUERY
    INSERT INTO public.billing_sessions AS s (
        session_id, started_at, started_at_reported, start_missing, duplicate_starts, metadata, raw_json,
        owner_journal, owner_writer, ended_at, ended_at_reported, finish_reason, duration_secs, duplicate_ends,
        llm_input_tokens, llm_output_tokens, llm_calls, tts_chars, tts_calls, stt_audio_ms, stt_calls)
    SELECT
        u.session_id, u.started_at, u.started_at_reported, u.starts = 0, greatest(u.starts - 1, 0),
        coalesce(u.metadata, '{}'), u.raw_json, insert_sessions.journal, insert_sessions.writer,
        e.final_end,
        CASE WHEN e.final_end > u.ended_at THEN coalesce(u.ended_at_reported, u.ended_at) ELSE u.ended_at_reported END,
        u.finish_reason, extract(epoch FROM e.final_end - u.started_at), greatest(u.ends - 1, 0),
        -- Totals are written when a session ends; a call within one batch begins and ends here.
        u.llm_input_tokens * e.ended, u.llm_output_tokens * e.ended, u.llm_calls * e.ended, u.tts_chars * e.ended,
        u.tts_calls * e.ended, u.stt_audio_ms * e.ended, u.stt_calls * e.ended
    FROM pg_temp.toll_batch_sessions AS u,
         LATERAL (SELECT CASE WHEN u.ends > 0 THEN greatest(u.ended_at, u.started_at) END AS final_end,
                         (u.ends > 0)::integer AS ended) AS e
    WHERE u.is_new
    ORDER BY u.session_id
    ON CONFLICT (session_id) DO NOTHING
    RETURNING s.session_id;
END $$;

ALTER FUNCTION toll.insert_sessions(journal uuid, writer integer) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.insert_sessions(journal uuid, writer integer) IS 'For tolld, within a batch: inserts the new sessions of toll_batch_sessions, owned by this journal and writer, and returns those that were not there before. A session that was there is left alone: see toll.settle_sessions';

CREATE FUNCTION toll.make_partition(month date) RETURNS TABLE(partition text, result text, moved_rows bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET lock_timeout TO '900ms'
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

ALTER FUNCTION toll.make_partition(month date) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.make_partition(month date) IS 'Makes the partitions of the month (UTC) that holds this day, moving what the default partitions hold of it. Safe beside ingest, in a transaction of its own. result: created; exists; busy: somebody held a lock for 0.9 s, nothing was changed, try again later';

CREATE FUNCTION toll.make_partitions(months_ahead integer) RETURNS TABLE(partition text, result text, moved_rows bigint)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT made.*
    FROM generate_series(0, least(months_ahead, 120)) AS ahead,
         toll.make_partition((date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date) AS made
$$;

ALTER FUNCTION toll.make_partitions(months_ahead integer) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.make_partitions(months_ahead integer) IS 'Makes the partitions of the current month (UTC) and of so many months after it: see toll.make_partition';

CREATE FUNCTION toll.recompute_totals(session_ids uuid[]) RETURNS TABLE(session_id uuid, duration_secs double precision, llm_input_tokens bigint, llm_output_tokens bigint, llm_calls bigint, tts_chars bigint, tts_calls bigint, stt_audio_ms double precision, stt_calls bigint)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    -- A snapshot from before the caller's locks would miss events: each statement must take its own.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'toll: recompute_totals needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    RETURN QUERY
    WITH wanted AS (
        SELECT s.session_id,
               CASE WHEN s.ended_at IS NOT NULL
                    THEN extract(epoch FROM greatest(s.ended_at, s.started_at) - s.started_at)::float8
               END AS duration_secs,
               coalesce(t.llm_input_tokens, 0) AS llm_input_tokens,
               coalesce(t.llm_output_tokens, 0) AS llm_output_tokens,
               coalesce(t.llm_calls, 0) AS llm_calls, coalesce(t.tts_chars, 0) AS tts_chars,
               coalesce(t.tts_calls, 0) AS tts_calls, coalesce(t.stt_audio_ms, 0) AS stt_audio_ms,
               coalesce(t.stt_calls, 0) AS stt_calls
        FROM public.billing_sessions s
        -- OFFSET 0: each session's own events through the index, whatever the planner takes the rest to be.
        LEFT JOIN LATERAL (SELECT * FROM toll.session_sums u WHERE u.session_id = s.session_id OFFSET 0) t ON true
        WHERE s.session_id = ANY (recompute_totals.session_ids) AND NOT s.sealed
    ), written AS (
        UPDATE public.billing_sessions s
        SET duration_secs = w.duration_secs, updated_at = now(),
            llm_input_tokens = w.llm_input_tokens, llm_output_tokens = w.llm_output_tokens, llm_calls = w.llm_calls,
            tts_chars = w.tts_chars, tts_calls = w.tts_calls, stt_audio_ms = w.stt_audio_ms, stt_calls = w.stt_calls
        FROM wanted w
        WHERE s.session_id = w.session_id AND s.ended_at IS NOT NULL
    )
    SELECT w.session_id, w.duration_secs, w.llm_input_tokens, w.llm_output_tokens, w.llm_calls, w.tts_chars,
           w.tts_calls, w.stt_audio_ms, w.stt_calls
    FROM wanted w;
END $$;

ALTER FUNCTION toll.recompute_totals(session_ids uuid[]) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.recompute_totals(session_ids uuid[]) IS 'Sums the stored events of these sessions, and writes totals and duration of those that have ended. Returns the sums of all of them, live ones included; sealed and unknown sessions are left out. Contract: one READ COMMITTED transaction in which the caller has, in an earlier statement, locked the sessions'' rows FOR UPDATE, and has stored its events and the ends. It does not touch revision';

CREATE FUNCTION toll.settle_sessions(journal uuid, writer integer, session_ids uuid[]) RETURNS TABLE(session_id uuid, ended boolean, to_sum boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH known AS (
        SELECT
            u.*, s.started_at AS old_started, s.started_at_reported AS old_started_reported, s.start_missing,
            s.ended_at AS old_ended, s.ended_at_reported AS old_ended_reported, s.finish_reason AS old_reason, s.sealed,
            s.shared OR s.owner_journal IS DISTINCT FROM settle_sessions.journal
                OR s.owner_writer IS DISTINCT FROM settle_sessions.writer AS shared_now,
            -- The first end finalizes; a real end supersedes an orphan's.
            u.ends > 0 AND (s.ended_at IS NULL OR s.finish_reason = 'orphaned') AS ends_now,
            u.idle_before IS NOT NULL AND s.ended_at IS NULL AND CASE
                -- Memory knows when it was last heard of, if nobody else stores its events.
                WHEN u.whole AND NOT s.shared AND s.owner_journal = settle_sessions.journal AND s.owner_writer = settle_sessions.writer
                THEN true
                -- Its owner decides, unless that is gone: then memory does not know of the session (see op_open_sessions).
                WHEN u.last_at IS NOT NULL AND (s.owner_journal IS DISTINCT FROM settle_sessions.journal
                                                OR s.owner_writer IS DISTINCT FROM settle_sessions.writer)
                THEN false
                -- Busy all the same: at another daemon, or while memory had no room for it.
                ELSE s.updated_at < u.idle_before AND NOT EXISTS (
                    SELECT FROM (SELECT e.batch_id FROM public.billing_events AS e WHERE e.session_id = u.session_id
                                 UNION ALL
                                 SELECT t.batch_id FROM public.session_transcripts AS t WHERE t.session_id = u.session_id) AS r
                    JOIN toll.batches AS b ON b.batch_id = r.batch_id
                    WHERE b.last_received_at >= u.idle_before)
            END AS orphaned_now,
            -- A real start replaces a synthesised one; of two real ones the earlier stays.
            u.starts > 0 AND (s.start_missing OR u.started_at < s.started_at) AS begins_anew
        FROM pg_temp.toll_batch_sessions AS u
        JOIN public.billing_sessions AS s ON s.session_id = u.session_id
        WHERE u.session_id = ANY (settle_sessions.session_ids)
    ), timed AS (
        SELECT
            k.*,
            CASE WHEN k.begins_anew THEN k.started_at ELSE k.old_started END AS begin_at,
            -- Memory may write totals only for what it alone has seen, from the insert on.
            k.whole AND NOT k.shared_now AND (k.ends_now OR k.orphaned_now) AS from_memory,
            CASE
                WHEN k.ends_now THEN k.ended_at
                WHEN k.orphaned_now AND k.whole AND NOT k.shared_now THEN k.last_at
                -- An orphan that memory does not know whole ends with its last stored row.
                WHEN k.orphaned_now THEN greatest(
                    (SELECT max(e.occurred_at) FROM public.billing_events AS e WHERE e.session_id = k.session_id),
                    (SELECT max(t.occurred_at) FROM public.session_transcripts AS t WHERE t.session_id = k.session_id))
                -- A late event of an orphan moves its end.
                WHEN k.old_reason = 'orphaned' AND k.rows > 0 THEN greatest(k.old_ended, k.last_at)
                ELSE k.old_ended
            END AS end_at
        FROM known AS k
    ), settled AS (
        SELECT
            t.*,
            -- Never before the start, however the clocks stood.
            CASE WHEN t.ends_now OR t.orphaned_now OR t.old_ended IS NOT NULL
                THEN greatest(t.end_at, t.begin_at) END AS final_end,
            -- Events of a sealed session are partly gone, so late ones are added to what is stored.
            t.sealed AND t.rows > 0 AS adds_up
        FROM timed AS t
    )
    UPDATE public.billing_sessions AS s
    SET started_at = n.begin_at,
        started_at_reported = CASE WHEN n.begins_anew THEN n.started_at_reported ELSE n.old_started_reported END,
        start_missing = n.start_missing AND n.starts = 0,
        duplicate_starts = s.duplicate_starts + greatest(n.starts - n.start_missing::integer, 0),
        -- What is there already wins: a duplicate start erases nothing.
        metadata = coalesce(n.metadata, '{}') || s.metadata,
        raw_json = CASE WHEN n.raw_json IS NULL THEN s.raw_json ELSE n.raw_json || coalesce(s.raw_json, '{}') END,
        shared = n.shared_now,
        ended_at = n.final_end,
        ended_at_reported = CASE
            WHEN NOT n.ends_now THEN n.old_ended_reported
            WHEN n.final_end > n.ended_at THEN coalesce(n.ended_at_reported, n.ended_at)
            ELSE n.ended_at_reported END,
        finish_reason = CASE
            WHEN n.ends_now THEN n.finish_reason WHEN n.orphaned_now THEN 'orphaned' ELSE n.old_reason END,
        duration_secs = extract(epoch FROM n.final_end - n.begin_at),
        duplicate_ends = s.duplicate_ends + greatest(n.ends - n.ends_now::integer, 0),
        revision = s.revision + (n.old_ended IS NOT NULL AND (n.rows > 0 OR n.starts > 0 OR n.ends_now))::integer,
        llm_input_tokens  = CASE WHEN n.from_memory THEN n.llm_input_tokens
                                 WHEN n.adds_up THEN s.llm_input_tokens + n.llm_input_tokens ELSE s.llm_input_tokens END,
        llm_output_tokens = CASE WHEN n.from_memory THEN n.llm_output_tokens
                                 WHEN n.adds_up THEN s.llm_output_tokens + n.llm_output_tokens ELSE s.llm_output_tokens END,
        llm_calls         = CASE WHEN n.from_memory THEN n.llm_calls
                                 WHEN n.adds_up THEN s.llm_calls + n.llm_calls ELSE s.llm_calls END,
        tts_chars         = CASE WHEN n.from_memory THEN n.tts_chars
                                 WHEN n.adds_up THEN s.tts_chars + n.tts_chars ELSE s.tts_chars END,
        tts_calls         = CASE WHEN n.from_memory THEN n.tts_calls
                                 WHEN n.adds_up THEN s.tts_calls + n.tts_calls ELSE s.tts_calls END,
        stt_audio_ms      = CASE WHEN n.from_memory THEN n.stt_audio_ms
                                 -- Whole microseconds, so that the sum of two is exact again.
                                 WHEN n.adds_up THEN (round(s.stt_audio_ms * 1000) + round(n.stt_audio_ms * 1000)) / 1000
                                 ELSE s.stt_audio_ms END,
        stt_calls         = CASE WHEN n.from_memory THEN n.stt_calls
                                 WHEN n.adds_up THEN s.stt_calls + n.stt_calls ELSE s.stt_calls END,
        -- Looking whether it is idle is nothing that happens to it.
        updated_at = CASE WHEN n.orphaned_now OR n.idle_before IS NULL THEN now() ELSE s.updated_at END
    FROM settled AS n
    WHERE s.session_id = n.session_id
    RETURNING s.session_id, s.ended_at IS NOT NULL,
        s.ended_at IS NOT NULL AND NOT n.from_memory AND NOT n.sealed AND (n.rows > 0 OR n.ends_now OR n.orphaned_now);
END $$;

ALTER FUNCTION toll.settle_sessions(journal uuid, writer integer, session_ids uuid[]) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.settle_sessions(journal uuid, writer integer, session_ids uuid[]) IS 'For tolld, within a batch: writes what the batch does to these sessions, which the caller has locked FOR UPDATE before it stored their events. ended: the session is over now. to_sum: its totals are not known from memory, so the caller must sum them in its next statement (toll.recompute_totals)';

CREATE FUNCTION toll.verify(since timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS TABLE(check_name text, checked bigint, wrong bigint, detail text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET work_mem TO '64MB'
    SET enable_nestloop TO 'off'
    AS $_$
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
        SELECT min(b.batch_id) INTO first_batch FROM toll.batches b WHERE b.committed_at >= since;
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
               END
        FROM public.billing_sessions
        WHERE ended_at IS NULL AND NOT sealed
    $check$),
    ('batch_ranges', $check$
        SELECT CASE WHEN b.from_lsn <> b.previous_lsn
                    THEN format('batch %s begins at %s, the one before it ends at %s', b.batch_id, b.from_lsn,
                                b.previous_lsn)
                    WHEN b.is_last AND j.lsn IS DISTINCT FROM b.to_lsn
                    THEN format('batch %s ends at %s, the watermark of journal %s writer %s is %s', b.batch_id,
                                b.to_lsn, b.journal_id, b.writer, coalesce(j.lsn::text, 'gone'))
               END
        FROM (SELECT *, lag(to_lsn) OVER w AS previous_lsn, lead(from_lsn) OVER w IS NULL AS is_last
              FROM toll.batches WHERE batch_id >= $2
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
        FROM toll.batches WHERE batch_id >= $2
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
                    THEN format('stream %s of uid %s, writer %s: %s frames missing from %s to %s', h.stream_id, h.uid,
                                h.writer, h.missing, h.from_seq, h.to_seq)
               END
        FROM toll.streams s
        LEFT JOIN toll.stream_holes h ON h.uid = s.uid AND h.stream_id = s.stream_id AND h.writer = s.writer
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
END $_$;

ALTER FUNCTION toll.verify(since timestamp with time zone) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.verify(since timestamp with time zone) IS 'Compares totals with stored events, batches with stored rows, ranges with watermarks, and looks for orphans and holes. All is well when wrong is 0 in every row; detail shows the first three faults. since: only sessions that ended or changed, batches that were stored and streams that sent since then; rows that toll did not store are only looked at without it';

CREATE FUNCTION toll.verify_rows_query(counter name, rows_of regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
    SELECT format($query$
        SELECT CASE WHEN b.expected IS NULL THEN format('%1$s: %%s rows of batch %%s, which does not exist', r.found,
                                                           r.batch_id)
                    WHEN b.expected <> coalesce(r.found, 0) + coalesce(x.%1$I, 0)
                    THEN format('%1$s: batch %%s stored %%s rows, %%s are there and %%s were removed by retention',
                                b.batch_id, b.expected, coalesce(r.found, 0), coalesce(x.%1$I, 0))
               END
        FROM (SELECT batch_id, %1$I AS expected FROM toll.batches WHERE batch_id >= $2) b
        FULL JOIN (SELECT batch_id, count(*) AS found FROM %2$s WHERE batch_id >= $2 GROUP BY batch_id) r
            ON r.batch_id = b.batch_id
        LEFT JOIN toll.removed_rows x ON x.batch_id = b.batch_id
    $query$, counter, rows_of)
$_$;

ALTER FUNCTION toll.verify_rows_query(counter name, rows_of regclass) OWNER TO toll_owner;

COMMENT ON FUNCTION toll.verify_rows_query(counter name, rows_of regclass) IS 'For toll.verify: the query that compares a counter of toll.batches with the rows that carry the batch''s number';

SET default_tablespace = '';

CREATE TABLE public.billing_events (
    id bigint NOT NULL,
    session_id uuid,
    event_type text NOT NULL,
    provider text,
    model text,
    input_tokens integer,
    output_tokens integer,
    estimated boolean,
    char_count integer,
    voice text,
    audio_duration_ms double precision,
    occurred_at timestamp with time zone NOT NULL,
    raw_json jsonb,
    batch_id bigint,
    turn_id uuid,
    agent text,
    request_id text,
    language text,
    cached_input_tokens integer,
    cache_write_tokens integer,
    audio_input_tokens integer,
    cached_audio_tokens integer,
    audio_output_tokens integer,
    reasoning_tokens integer,
    ttfb_ms double precision,
    duration_ms double precision,
    interrupted boolean,
    meter text,
    quantity numeric,
    account text,
    occurred_at_reported timestamp with time zone,
    CONSTRAINT billing_events_session_or_account_check CHECK (((session_id IS NOT NULL) OR (account IS NOT NULL)))
)
PARTITION BY RANGE (occurred_at);

ALTER TABLE public.billing_events OWNER TO toll_owner;

COMMENT ON TABLE public.billing_events IS 'One row per metered use: an llm call, a tts synthesis, an stt turn, or any other usage. Append-only.';

COMMENT ON COLUMN public.billing_events.id IS 'Number of the row';

COMMENT ON COLUMN public.billing_events.session_id IS 'The call; NULL only for usage that names an account instead';

COMMENT ON COLUMN public.billing_events.event_type IS 'llm, tts, stt or usage';

COMMENT ON COLUMN public.billing_events.provider IS 'Who served it: openai, deepgram, cartesia ...';

COMMENT ON COLUMN public.billing_events.model IS 'The provider''s model';

COMMENT ON COLUMN public.billing_events.input_tokens IS 'Input tokens, gross: cached, cache-write and audio tokens are among them';

COMMENT ON COLUMN public.billing_events.output_tokens IS 'Output tokens, gross: audio and reasoning tokens are among them';

COMMENT ON COLUMN public.billing_events.estimated IS 'True: the worker estimated the tokens, the provider did not report them';

COMMENT ON COLUMN public.billing_events.char_count IS 'Characters synthesised (tts)';

COMMENT ON COLUMN public.billing_events.voice IS 'The voice (tts)';

COMMENT ON COLUMN public.billing_events.audio_duration_ms IS 'Length of the audio in milliseconds, to the microsecond (stt, tts)';

COMMENT ON COLUMN public.billing_events.occurred_at IS 'When it happened, by the worker''s clock (see occurred_at_reported)';

COMMENT ON COLUMN public.billing_events.raw_json IS 'The frame''s own raw map and the keys toll does not know';

COMMENT ON COLUMN public.billing_events.batch_id IS 'The transaction that stored it (toll.batches); NULL: not stored by toll';

COMMENT ON COLUMN public.billing_events.turn_id IS 'The turn of the conversation it belongs to';

COMMENT ON COLUMN public.billing_events.agent IS 'The agent that made the call';

COMMENT ON COLUMN public.billing_events.request_id IS 'The provider''s request id';

COMMENT ON COLUMN public.billing_events.language IS 'The language recognised (stt)';

COMMENT ON COLUMN public.billing_events.cached_input_tokens IS 'Of input_tokens, those read from the provider''s cache';

COMMENT ON COLUMN public.billing_events.cache_write_tokens IS 'Of input_tokens, those written to the provider''s cache';

COMMENT ON COLUMN public.billing_events.audio_input_tokens IS 'Of input_tokens, those that are audio';

COMMENT ON COLUMN public.billing_events.cached_audio_tokens IS 'Of input_tokens, those that are both cached and audio';

COMMENT ON COLUMN public.billing_events.audio_output_tokens IS 'Of output_tokens, those that are audio';

COMMENT ON COLUMN public.billing_events.reasoning_tokens IS 'Of output_tokens, those spent on reasoning';

COMMENT ON COLUMN public.billing_events.ttfb_ms IS 'Milliseconds until the provider''s first byte';

COMMENT ON COLUMN public.billing_events.duration_ms IS 'Milliseconds the call to the provider took';

COMMENT ON COLUMN public.billing_events.interrupted IS 'True: the caller cut it short';

COMMENT ON COLUMN public.billing_events.meter IS 'What was used (usage): telephony_inbound, sms, storage_mb ...';

COMMENT ON COLUMN public.billing_events.quantity IS 'How much of it, in the meter''s unit (usage)';

COMMENT ON COLUMN public.billing_events.account IS 'The account, for usage outside any call';

COMMENT ON COLUMN public.billing_events.occurred_at_reported IS 'The time as the worker reported it, where its clock was so wrong that occurred_at was clamped; else NULL';

CREATE SEQUENCE public.billing_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER TABLE public.billing_events_id_seq OWNER TO toll_owner;

ALTER SEQUENCE public.billing_events_id_seq OWNED BY public.billing_events.id;

SET default_table_access_method = heap;

CREATE TABLE public.billing_sessions (
    session_id uuid DEFAULT gen_random_uuid() NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    duration_secs double precision,
    finish_reason text,
    llm_input_tokens bigint DEFAULT 0 NOT NULL,
    llm_output_tokens bigint DEFAULT 0 NOT NULL,
    llm_calls integer DEFAULT 0 NOT NULL,
    tts_chars bigint DEFAULT 0 NOT NULL,
    tts_calls integer DEFAULT 0 NOT NULL,
    stt_audio_ms double precision DEFAULT 0 NOT NULL,
    stt_calls integer DEFAULT 0 NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    start_missing boolean DEFAULT false NOT NULL,
    shared boolean DEFAULT false NOT NULL,
    owner_journal uuid,
    owner_writer integer,
    revision integer DEFAULT 0 NOT NULL,
    duplicate_starts integer DEFAULT 0 NOT NULL,
    duplicate_ends integer DEFAULT 0 NOT NULL,
    started_at_reported timestamp with time zone,
    ended_at_reported timestamp with time zone,
    sealed boolean DEFAULT false NOT NULL,
    raw_json jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.05', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE public.billing_sessions OWNER TO toll_owner;

COMMENT ON TABLE public.billing_sessions IS 'One row per call. While a call is live its totals are 0 here (see session_totals); they are written when it ends.';

COMMENT ON COLUMN public.billing_sessions.session_id IS 'The UUID the worker gave the call';

COMMENT ON COLUMN public.billing_sessions.started_at IS 'When the call began; of a call whose start never came (start_missing), the time of its first event';

COMMENT ON COLUMN public.billing_sessions.ended_at IS 'When the call ended, never before started_at; NULL while it is live. Of an orphaned call: its last activity';

COMMENT ON COLUMN public.billing_sessions.duration_secs IS 'ended_at - started_at in seconds; NULL while the call is live';

COMMENT ON COLUMN public.billing_sessions.finish_reason IS 'end, stop, cancel, or what the worker said; orphaned: no end came; NULL while the call is live';

COMMENT ON COLUMN public.billing_sessions.llm_input_tokens IS 'Sum of input_tokens of the llm events, cached ones included';

COMMENT ON COLUMN public.billing_sessions.llm_output_tokens IS 'Sum of output_tokens of the llm events';

COMMENT ON COLUMN public.billing_sessions.llm_calls IS 'Number of llm events';

COMMENT ON COLUMN public.billing_sessions.tts_chars IS 'Sum of char_count of the tts events';

COMMENT ON COLUMN public.billing_sessions.tts_calls IS 'Number of tts events';

COMMENT ON COLUMN public.billing_sessions.stt_audio_ms IS 'Sum of audio_duration_ms of the stt events, added in whole microseconds and therefore exact';

COMMENT ON COLUMN public.billing_sessions.stt_calls IS 'Number of stt events';

COMMENT ON COLUMN public.billing_sessions.metadata IS 'What the worker said about the call: user_id, tenant_id, phone_number, region ... ({} once erased)';

COMMENT ON COLUMN public.billing_sessions.start_missing IS 'True: no session_start came; the row was made from the first event';

COMMENT ON COLUMN public.billing_sessions.shared IS 'True: events came through more than one journal or writer, so totals are always summed from the stored events';

COMMENT ON COLUMN public.billing_sessions.owner_journal IS 'The journal whose daemon keeps the running totals in memory';

COMMENT ON COLUMN public.billing_sessions.owner_writer IS 'The writer within owner_journal';

COMMENT ON COLUMN public.billing_sessions.revision IS 'How often the totals or the end were corrected after the call had ended';

COMMENT ON COLUMN public.billing_sessions.duplicate_starts IS 'session_start frames after the first';

COMMENT ON COLUMN public.billing_sessions.duplicate_ends IS 'session_end frames that came after the call had ended and changed nothing';

COMMENT ON COLUMN public.billing_sessions.started_at_reported IS 'The start as the worker reported it, where its clock was so wrong that started_at was clamped; else NULL';

COMMENT ON COLUMN public.billing_sessions.ended_at_reported IS 'The end as the worker reported it, where its clock was so wrong that ended_at was clamped; else NULL';

COMMENT ON COLUMN public.billing_sessions.sealed IS 'True: some of its events were dropped by retention, so totals are no longer compared with stored events';

COMMENT ON COLUMN public.billing_sessions.raw_json IS 'Keys of its session frames that toll does not know';

COMMENT ON COLUMN public.billing_sessions.created_at IS 'When the row was inserted';

COMMENT ON COLUMN public.billing_sessions.updated_at IS 'When the row was last changed';

CREATE TABLE public.session_transcripts (
    id bigint NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid,
    role text,
    text text,
    language text,
    interrupted boolean DEFAULT false NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    batch_id bigint,
    occurred_at_reported timestamp with time zone,
    raw_json jsonb
)
PARTITION BY RANGE (occurred_at);

ALTER TABLE public.session_transcripts OWNER TO toll_owner;

COMMENT ON TABLE public.session_transcripts IS 'One row per turn of a conversation, the caller''s and the bot''s';

COMMENT ON COLUMN public.session_transcripts.id IS 'Number of the row';

COMMENT ON COLUMN public.session_transcripts.session_id IS 'The call';

COMMENT ON COLUMN public.session_transcripts.turn_id IS 'The turn; its audio is stored elsewhere under the same UUID';

COMMENT ON COLUMN public.session_transcripts.role IS 'user or assistant';

COMMENT ON COLUMN public.session_transcripts.text IS 'What was said; of an interrupted turn, what the caller actually heard. NULL once erased';

COMMENT ON COLUMN public.session_transcripts.language IS 'The language spoken, where it is known (user turns). NULL once erased';

COMMENT ON COLUMN public.session_transcripts.interrupted IS 'True: the bot was cut short';

COMMENT ON COLUMN public.session_transcripts.occurred_at IS 'When the turn was complete';

COMMENT ON COLUMN public.session_transcripts.batch_id IS 'The transaction that stored it (toll.batches); NULL: not stored by toll';

COMMENT ON COLUMN public.session_transcripts.occurred_at_reported IS 'The time as the worker reported it, where its clock was so wrong that occurred_at was clamped; else NULL';

COMMENT ON COLUMN public.session_transcripts.raw_json IS 'Keys of the frame that toll does not know. NULL once erased';

CREATE VIEW toll.session_sums AS
 SELECT billing_events.session_id,
    COALESCE(sum(billing_events.input_tokens) FILTER (WHERE (billing_events.event_type = 'llm'::text)), (0)::bigint) AS llm_input_tokens,
    COALESCE(sum(billing_events.output_tokens) FILTER (WHERE (billing_events.event_type = 'llm'::text)), (0)::bigint) AS llm_output_tokens,
    count(*) FILTER (WHERE (billing_events.event_type = 'llm'::text)) AS llm_calls,
    COALESCE(sum(billing_events.char_count) FILTER (WHERE (billing_events.event_type = 'tts'::text)), (0)::bigint) AS tts_chars,
    count(*) FILTER (WHERE (billing_events.event_type = 'tts'::text)) AS tts_calls,
    ((COALESCE(sum((round((billing_events.audio_duration_ms * (1000)::double precision)))::bigint) FILTER (WHERE (billing_events.event_type = 'stt'::text)), (0)::numeric) / 1000.0))::double precision AS stt_audio_ms,
    count(*) FILTER (WHERE (billing_events.event_type = 'stt'::text)) AS stt_calls
   FROM public.billing_events
  WHERE ((billing_events.session_id IS NOT NULL) AND (billing_events.event_type = ANY (ARRAY['llm'::text, 'tts'::text, 'stt'::text])))
  GROUP BY billing_events.session_id;

ALTER TABLE toll.session_sums OWNER TO toll_owner;

COMMENT ON VIEW toll.session_sums IS 'Totals of each session that has llm, tts or stt events, summed from the stored events: integers, whole microseconds of audio';

COMMENT ON COLUMN toll.session_sums.session_id IS 'The call';

COMMENT ON COLUMN toll.session_sums.llm_input_tokens IS 'Sum of input_tokens of its llm events';

COMMENT ON COLUMN toll.session_sums.llm_output_tokens IS 'Sum of output_tokens of its llm events';

COMMENT ON COLUMN toll.session_sums.llm_calls IS 'Number of its llm events';

COMMENT ON COLUMN toll.session_sums.tts_chars IS 'Sum of char_count of its tts events';

COMMENT ON COLUMN toll.session_sums.tts_calls IS 'Number of its tts events';

COMMENT ON COLUMN toll.session_sums.stt_audio_ms IS 'Milliseconds of audio of its stt events';

COMMENT ON COLUMN toll.session_sums.stt_calls IS 'Number of its stt events';

CREATE VIEW public.session_totals AS
 SELECT billing_sessions.session_id,
    false AS live,
    billing_sessions.started_at,
    billing_sessions.ended_at,
    billing_sessions.ended_at AS last_activity_at,
    billing_sessions.duration_secs,
    billing_sessions.finish_reason,
    billing_sessions.llm_input_tokens,
    billing_sessions.llm_output_tokens,
    (billing_sessions.llm_calls)::bigint AS llm_calls,
    billing_sessions.tts_chars,
    (billing_sessions.tts_calls)::bigint AS tts_calls,
    billing_sessions.stt_audio_ms,
    (billing_sessions.stt_calls)::bigint AS stt_calls,
    billing_sessions.metadata
   FROM public.billing_sessions
  WHERE (billing_sessions.ended_at IS NOT NULL)
UNION ALL
 SELECT s.session_id,
    true AS live,
    s.started_at,
    NULL::timestamp with time zone AS ended_at,
    active.at AS last_activity_at,
    (EXTRACT(epoch FROM (active.at - s.started_at)))::double precision AS duration_secs,
    NULL::text AS finish_reason,
        CASE
            WHEN s.sealed THEN s.llm_input_tokens
            ELSE COALESCE(t.llm_input_tokens, (0)::bigint)
        END AS llm_input_tokens,
        CASE
            WHEN s.sealed THEN s.llm_output_tokens
            ELSE COALESCE(t.llm_output_tokens, (0)::bigint)
        END AS llm_output_tokens,
        CASE
            WHEN s.sealed THEN (s.llm_calls)::bigint
            ELSE COALESCE(t.llm_calls, (0)::bigint)
        END AS llm_calls,
        CASE
            WHEN s.sealed THEN s.tts_chars
            ELSE COALESCE(t.tts_chars, (0)::bigint)
        END AS tts_chars,
        CASE
            WHEN s.sealed THEN (s.tts_calls)::bigint
            ELSE COALESCE(t.tts_calls, (0)::bigint)
        END AS tts_calls,
        CASE
            WHEN s.sealed THEN s.stt_audio_ms
            ELSE COALESCE(t.stt_audio_ms, (0)::double precision)
        END AS stt_audio_ms,
        CASE
            WHEN s.sealed THEN (s.stt_calls)::bigint
            ELSE COALESCE(t.stt_calls, (0)::bigint)
        END AS stt_calls,
    s.metadata
   FROM ((public.billing_sessions s
     CROSS JOIN LATERAL ( SELECT GREATEST(s.started_at, ( SELECT max(e.occurred_at) AS max
                   FROM public.billing_events e
                  WHERE (e.session_id = s.session_id)), ( SELECT max(r.occurred_at) AS max
                   FROM public.session_transcripts r
                  WHERE (r.session_id = s.session_id))) AS at
         OFFSET 0) active)
     LEFT JOIN LATERAL ( SELECT u.session_id,
            u.llm_input_tokens,
            u.llm_output_tokens,
            u.llm_calls,
            u.tts_chars,
            u.tts_calls,
            u.stt_audio_ms,
            u.stt_calls
           FROM toll.session_sums u
          WHERE (u.session_id = s.session_id)
         OFFSET 0) t ON (true))
  WHERE (s.ended_at IS NULL);

ALTER TABLE public.session_totals OWNER TO toll_owner;

COMMENT ON VIEW public.session_totals IS 'Every call with its totals so far: of ended calls the stored totals, of live ones what their stored events add up to now';

COMMENT ON COLUMN public.session_totals.session_id IS 'The call';

COMMENT ON COLUMN public.session_totals.live IS 'True: the call has not ended';

COMMENT ON COLUMN public.session_totals.started_at IS 'When it began';

COMMENT ON COLUMN public.session_totals.ended_at IS 'When it ended; NULL while it is live';

COMMENT ON COLUMN public.session_totals.last_activity_at IS 'Of a live call, when its latest event or transcript turn occurred; else ended_at';

COMMENT ON COLUMN public.session_totals.duration_secs IS 'Seconds from its start to its end, or to its last activity while it is live';

COMMENT ON COLUMN public.session_totals.finish_reason IS 'How it ended; NULL while it is live';

COMMENT ON COLUMN public.session_totals.llm_input_tokens IS 'Sum of input_tokens of its llm events';

COMMENT ON COLUMN public.session_totals.llm_output_tokens IS 'Sum of output_tokens of its llm events';

COMMENT ON COLUMN public.session_totals.llm_calls IS 'Number of its llm events';

COMMENT ON COLUMN public.session_totals.tts_chars IS 'Sum of char_count of its tts events';

COMMENT ON COLUMN public.session_totals.tts_calls IS 'Number of its tts events';

COMMENT ON COLUMN public.session_totals.stt_audio_ms IS 'Milliseconds of audio of its stt events';

COMMENT ON COLUMN public.session_totals.stt_calls IS 'Number of its stt events';

COMMENT ON COLUMN public.session_totals.metadata IS 'What the worker said about the call';

CREATE VIEW public.live_sessions AS
 SELECT session_totals.session_id,
    session_totals.started_at,
    session_totals.last_activity_at,
    session_totals.duration_secs,
    session_totals.llm_input_tokens,
    session_totals.llm_output_tokens,
    session_totals.llm_calls,
    session_totals.tts_chars,
    session_totals.tts_calls,
    session_totals.stt_audio_ms,
    session_totals.stt_calls,
    session_totals.metadata
   FROM public.session_totals
  WHERE session_totals.live;

ALTER TABLE public.live_sessions OWNER TO toll_owner;

COMMENT ON VIEW public.live_sessions IS 'The calls that have not ended, with their totals so far (session_totals WHERE live)';

COMMENT ON COLUMN public.live_sessions.session_id IS 'The call';

COMMENT ON COLUMN public.live_sessions.started_at IS 'When it began';

COMMENT ON COLUMN public.live_sessions.last_activity_at IS 'When its latest event or transcript turn occurred';

COMMENT ON COLUMN public.live_sessions.duration_secs IS 'Seconds from its start to its last activity';

COMMENT ON COLUMN public.live_sessions.llm_input_tokens IS 'Sum of input_tokens of its llm events';

COMMENT ON COLUMN public.live_sessions.llm_output_tokens IS 'Sum of output_tokens of its llm events';

COMMENT ON COLUMN public.live_sessions.llm_calls IS 'Number of its llm events';

COMMENT ON COLUMN public.live_sessions.tts_chars IS 'Sum of char_count of its tts events';

COMMENT ON COLUMN public.live_sessions.tts_calls IS 'Number of its tts events';

COMMENT ON COLUMN public.live_sessions.stt_audio_ms IS 'Milliseconds of audio of its stt events';

COMMENT ON COLUMN public.live_sessions.stt_calls IS 'Number of its stt events';

COMMENT ON COLUMN public.live_sessions.metadata IS 'What the worker said about the call';

CREATE VIEW public.model_usage AS
 SELECT billing_events.event_type,
    billing_events.provider,
    billing_events.model,
    billing_events.meter,
    count(*) AS calls,
    count(*) FILTER (WHERE billing_events.estimated) AS estimated_calls,
    COALESCE(sum(billing_events.input_tokens), (0)::bigint) AS input_tokens,
    COALESCE(sum(billing_events.output_tokens), (0)::bigint) AS output_tokens,
    COALESCE(sum(billing_events.cached_input_tokens), (0)::bigint) AS cached_input_tokens,
    COALESCE(sum(billing_events.char_count), (0)::bigint) AS chars,
    ((COALESCE(sum((round((billing_events.audio_duration_ms * (1000)::double precision)))::bigint), (0)::numeric) / 1000.0))::double precision AS audio_ms,
    round((COALESCE(sum((round((billing_events.audio_duration_ms * (1000)::double precision)))::bigint), (0)::numeric) / 60000000.0), 3) AS audio_minutes,
    sum(billing_events.quantity) AS quantity,
    min(billing_events.occurred_at) AS first_at,
    max(billing_events.occurred_at) AS last_at
   FROM public.billing_events
  GROUP BY billing_events.event_type, billing_events.provider, billing_events.model, billing_events.meter;

ALTER TABLE public.model_usage OWNER TO toll_owner;

COMMENT ON VIEW public.model_usage IS 'What was used per kind of event, provider, model and meter, over all stored events';

COMMENT ON COLUMN public.model_usage.event_type IS 'llm, tts, stt or usage';

COMMENT ON COLUMN public.model_usage.provider IS 'Who served it';

COMMENT ON COLUMN public.model_usage.model IS 'The provider''s model';

COMMENT ON COLUMN public.model_usage.meter IS 'What was used (usage only)';

COMMENT ON COLUMN public.model_usage.calls IS 'Number of events';

COMMENT ON COLUMN public.model_usage.estimated_calls IS 'Of these, those whose tokens the worker estimated';

COMMENT ON COLUMN public.model_usage.input_tokens IS 'Sum of input_tokens, gross';

COMMENT ON COLUMN public.model_usage.output_tokens IS 'Sum of output_tokens, gross';

COMMENT ON COLUMN public.model_usage.cached_input_tokens IS 'Of input_tokens, those from the provider''s cache';

COMMENT ON COLUMN public.model_usage.chars IS 'Characters synthesised';

COMMENT ON COLUMN public.model_usage.audio_ms IS 'Milliseconds of audio, exact to the microsecond';

COMMENT ON COLUMN public.model_usage.audio_minutes IS 'The same in minutes, to three decimals';

COMMENT ON COLUMN public.model_usage.quantity IS 'Sum of quantity, in the meter''s unit';

COMMENT ON COLUMN public.model_usage.first_at IS 'When the first of them occurred';

COMMENT ON COLUMN public.model_usage.last_at IS 'When the last of them occurred';

CREATE VIEW public.model_usage_daily AS
 SELECT ((billing_events.occurred_at AT TIME ZONE 'UTC'::text))::date AS day,
    billing_events.event_type,
    billing_events.provider,
    billing_events.model,
    billing_events.meter,
    count(*) AS calls,
    count(*) FILTER (WHERE billing_events.estimated) AS estimated_calls,
    COALESCE(sum(billing_events.input_tokens), (0)::bigint) AS input_tokens,
    COALESCE(sum(billing_events.output_tokens), (0)::bigint) AS output_tokens,
    COALESCE(sum(billing_events.cached_input_tokens), (0)::bigint) AS cached_input_tokens,
    COALESCE(sum(billing_events.char_count), (0)::bigint) AS chars,
    ((COALESCE(sum((round((billing_events.audio_duration_ms * (1000)::double precision)))::bigint), (0)::numeric) / 1000.0))::double precision AS audio_ms,
    round((COALESCE(sum((round((billing_events.audio_duration_ms * (1000)::double precision)))::bigint), (0)::numeric) / 60000000.0), 3) AS audio_minutes,
    sum(billing_events.quantity) AS quantity,
    min(billing_events.occurred_at) AS first_at,
    max(billing_events.occurred_at) AS last_at
   FROM public.billing_events
  GROUP BY (((billing_events.occurred_at AT TIME ZONE 'UTC'::text))::date), billing_events.event_type, billing_events.provider, billing_events.model, billing_events.meter;

ALTER TABLE public.model_usage_daily OWNER TO toll_owner;

COMMENT ON VIEW public.model_usage_daily IS 'What was used per kind of event, provider, model and meter and per day of UTC. For a few days of a large table, say so by occurred_at in a query of your own';

COMMENT ON COLUMN public.model_usage_daily.day IS 'The day, of UTC';

COMMENT ON COLUMN public.model_usage_daily.event_type IS 'llm, tts, stt or usage';

COMMENT ON COLUMN public.model_usage_daily.provider IS 'Who served it';

COMMENT ON COLUMN public.model_usage_daily.model IS 'The provider''s model';

COMMENT ON COLUMN public.model_usage_daily.meter IS 'What was used (usage only)';

COMMENT ON COLUMN public.model_usage_daily.calls IS 'Number of events';

COMMENT ON COLUMN public.model_usage_daily.estimated_calls IS 'Of these, those whose tokens the worker estimated';

COMMENT ON COLUMN public.model_usage_daily.input_tokens IS 'Sum of input_tokens, gross';

COMMENT ON COLUMN public.model_usage_daily.output_tokens IS 'Sum of output_tokens, gross';

COMMENT ON COLUMN public.model_usage_daily.cached_input_tokens IS 'Of input_tokens, those from the provider''s cache';

COMMENT ON COLUMN public.model_usage_daily.chars IS 'Characters synthesised';

COMMENT ON COLUMN public.model_usage_daily.audio_ms IS 'Milliseconds of audio, exact to the microsecond';

COMMENT ON COLUMN public.model_usage_daily.audio_minutes IS 'The same in minutes, to three decimals';

COMMENT ON COLUMN public.model_usage_daily.quantity IS 'Sum of quantity, in the meter''s unit';

COMMENT ON COLUMN public.model_usage_daily.first_at IS 'When the first of them occurred';

COMMENT ON COLUMN public.model_usage_daily.last_at IS 'When the last of them occurred';

CREATE SEQUENCE public.session_transcripts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER TABLE public.session_transcripts_id_seq OWNER TO toll_owner;

ALTER SEQUENCE public.session_transcripts_id_seq OWNED BY public.session_transcripts.id;

CREATE SEQUENCE toll.batch_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER TABLE toll.batch_id_seq OWNER TO toll_owner;

COMMENT ON SEQUENCE toll.batch_id_seq IS 'Numbers of batches';

CREATE TABLE toll.batches (
    batch_id bigint NOT NULL,
    journal_id uuid NOT NULL,
    writer integer NOT NULL,
    from_lsn bigint NOT NULL,
    to_lsn bigint NOT NULL,
    received integer NOT NULL,
    stored integer NOT NULL,
    quarantined integer NOT NULL,
    duplicates integer NOT NULL,
    events integer NOT NULL,
    transcripts integer NOT NULL,
    first_received_at timestamp with time zone,
    last_received_at timestamp with time zone,
    committed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT batches_frames_check CHECK ((received = ((stored + quarantined) + duplicates))),
    CONSTRAINT batches_range_check CHECK ((from_lsn < to_lsn))
);

ALTER TABLE toll.batches OWNER TO toll_owner;

COMMENT ON TABLE toll.batches IS 'One row per transaction of tolld: the range of the journal it stored. A journal''s and writer''s ranges follow one another without gap.';

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

CREATE TABLE toll.billing_events_2026_11 (
    id bigint DEFAULT nextval('public.billing_events_id_seq'::regclass) NOT NULL,
    session_id uuid,
    event_type text NOT NULL,
    provider text,
    model text,
    input_tokens integer,
    output_tokens integer,
    estimated boolean,
    char_count integer,
    voice text,
    audio_duration_ms double precision,
    occurred_at timestamp with time zone NOT NULL,
    raw_json jsonb,
    batch_id bigint,
    turn_id uuid,
    agent text,
    request_id text,
    language text,
    cached_input_tokens integer,
    cache_write_tokens integer,
    audio_input_tokens integer,
    cached_audio_tokens integer,
    audio_output_tokens integer,
    reasoning_tokens integer,
    ttfb_ms double precision,
    duration_ms double precision,
    interrupted boolean,
    meter text,
    quantity numeric,
    account text,
    occurred_at_reported timestamp with time zone,
    CONSTRAINT billing_events_session_or_account_check CHECK (((session_id IS NOT NULL) OR (account IS NOT NULL)))
)
WITH (autovacuum_freeze_min_age='0', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE toll.billing_events_2026_11 OWNER TO toll_owner;

CREATE TABLE toll.billing_events_2026_12 (
    id bigint DEFAULT nextval('public.billing_events_id_seq'::regclass) NOT NULL,
    session_id uuid,
    event_type text NOT NULL,
    provider text,
    model text,
    input_tokens integer,
    output_tokens integer,
    estimated boolean,
    char_count integer,
    voice text,
    audio_duration_ms double precision,
    occurred_at timestamp with time zone NOT NULL,
    raw_json jsonb,
    batch_id bigint,
    turn_id uuid,
    agent text,
    request_id text,
    language text,
    cached_input_tokens integer,
    cache_write_tokens integer,
    audio_input_tokens integer,
    cached_audio_tokens integer,
    audio_output_tokens integer,
    reasoning_tokens integer,
    ttfb_ms double precision,
    duration_ms double precision,
    interrupted boolean,
    meter text,
    quantity numeric,
    account text,
    occurred_at_reported timestamp with time zone,
    CONSTRAINT billing_events_session_or_account_check CHECK (((session_id IS NOT NULL) OR (account IS NOT NULL)))
)
WITH (autovacuum_freeze_min_age='0', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE toll.billing_events_2026_12 OWNER TO toll_owner;

CREATE TABLE toll.billing_events_2027_01 (
    id bigint DEFAULT nextval('public.billing_events_id_seq'::regclass) NOT NULL,
    session_id uuid,
    event_type text NOT NULL,
    provider text,
    model text,
    input_tokens integer,
    output_tokens integer,
    estimated boolean,
    char_count integer,
    voice text,
    audio_duration_ms double precision,
    occurred_at timestamp with time zone NOT NULL,
    raw_json jsonb,
    batch_id bigint,
    turn_id uuid,
    agent text,
    request_id text,
    language text,
    cached_input_tokens integer,
    cache_write_tokens integer,
    audio_input_tokens integer,
    cached_audio_tokens integer,
    audio_output_tokens integer,
    reasoning_tokens integer,
    ttfb_ms double precision,
    duration_ms double precision,
    interrupted boolean,
    meter text,
    quantity numeric,
    account text,
    occurred_at_reported timestamp with time zone,
    CONSTRAINT billing_events_session_or_account_check CHECK (((session_id IS NOT NULL) OR (account IS NOT NULL)))
)
WITH (autovacuum_freeze_min_age='0', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE toll.billing_events_2027_01 OWNER TO toll_owner;

CREATE TABLE toll.billing_events_default (
    id bigint DEFAULT nextval('public.billing_events_id_seq'::regclass) NOT NULL,
    session_id uuid,
    event_type text NOT NULL,
    provider text,
    model text,
    input_tokens integer,
    output_tokens integer,
    estimated boolean,
    char_count integer,
    voice text,
    audio_duration_ms double precision,
    occurred_at timestamp with time zone NOT NULL,
    raw_json jsonb,
    batch_id bigint,
    turn_id uuid,
    agent text,
    request_id text,
    language text,
    cached_input_tokens integer,
    cache_write_tokens integer,
    audio_input_tokens integer,
    cached_audio_tokens integer,
    audio_output_tokens integer,
    reasoning_tokens integer,
    ttfb_ms double precision,
    duration_ms double precision,
    interrupted boolean,
    meter text,
    quantity numeric,
    account text,
    occurred_at_reported timestamp with time zone,
    CONSTRAINT billing_events_session_or_account_check CHECK (((session_id IS NOT NULL) OR (account IS NOT NULL)))
);

ALTER TABLE toll.billing_events_default OWNER TO toll_owner;

COMMENT ON TABLE toll.billing_events_default IS 'Events of months that have no partition';

CREATE TABLE toll.gaps (
    id bigint NOT NULL,
    batch_id bigint,
    stream_id uuid,
    seq bigint,
    uid bigint,
    pid integer,
    session_id uuid,
    count bigint NOT NULL,
    since timestamp with time zone,
    until timestamp with time zone,
    received_at timestamp with time zone,
    raw_json jsonb
);

ALTER TABLE toll.gaps OWNER TO toll_owner;

COMMENT ON TABLE toll.gaps IS 'Frames that workers had to refuse because their ring was full: losses, counted by who suffered them';

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

CREATE SEQUENCE toll.gaps_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER TABLE toll.gaps_id_seq OWNER TO toll_owner;

ALTER SEQUENCE toll.gaps_id_seq OWNED BY toll.gaps.id;

CREATE TABLE toll.journal_runs (
    journal_id uuid NOT NULL,
    writer integer NOT NULL,
    run uuid NOT NULL,
    lsn bigint NOT NULL,
    ended_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE toll.journal_runs OWNER TO toll_owner;

COMMENT ON TABLE toll.journal_runs IS 'How far each earlier run of a journal and writer came. Kept for a year';

COMMENT ON COLUMN toll.journal_runs.journal_id IS 'The journal';

COMMENT ON COLUMN toll.journal_runs.writer IS 'The writer';

COMMENT ON COLUMN toll.journal_runs.run IS 'The run: a random id';

COMMENT ON COLUMN toll.journal_runs.lsn IS 'The watermark when the next run took over';

COMMENT ON COLUMN toll.journal_runs.ended_at IS 'When that was';

CREATE TABLE toll.journals (
    journal_id uuid NOT NULL,
    writer integer NOT NULL,
    lsn bigint NOT NULL,
    host text,
    version text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    run uuid
)
WITH (fillfactor='50');

ALTER TABLE toll.journals OWNER TO toll_owner;

COMMENT ON TABLE toll.journals IS 'The watermark of each journal and writer: everything below lsn is stored in this database';

COMMENT ON COLUMN toll.journals.journal_id IS 'The journal''s UUID: one per daemon''s state directory';

COMMENT ON COLUMN toll.journals.writer IS 'The writer, from 0';

COMMENT ON COLUMN toll.journals.lsn IS 'The watermark: where the writer''s last committed batch ended';

COMMENT ON COLUMN toll.journals.host IS 'The machine the daemon runs on';

COMMENT ON COLUMN toll.journals.version IS 'The daemon''s version';

COMMENT ON COLUMN toll.journals.created_at IS 'When the journal was first seen here';

COMMENT ON COLUMN toll.journals.seen_at IS 'When its daemon last connected or committed';

COMMENT ON COLUMN toll.journals.run IS 'The run of tolld that moves the watermark now; nobody else may';

CREATE VIEW toll.journal_status AS
 SELECT j.journal_id,
    j.writer,
    j.host,
    j.version,
    j.lsn,
    j.created_at,
    j.seen_at,
    b.batch_id AS last_batch_id,
    b.committed_at AS last_committed_at,
    b.last_received_at,
    (b.committed_at - b.last_received_at) AS last_delay,
    ( SELECT count(*) AS count
           FROM public.billing_sessions s
          WHERE ((s.owner_journal = j.journal_id) AND (s.owner_writer = j.writer) AND (s.ended_at IS NULL))) AS live_sessions
   FROM (toll.journals j
     LEFT JOIN LATERAL ( SELECT c.batch_id,
            c.journal_id,
            c.writer,
            c.from_lsn,
            c.to_lsn,
            c.received,
            c.stored,
            c.quarantined,
            c.duplicates,
            c.events,
            c.transcripts,
            c.first_received_at,
            c.last_received_at,
            c.committed_at
           FROM toll.batches c
          WHERE ((c.journal_id = j.journal_id) AND (c.writer = j.writer))
          ORDER BY c.from_lsn DESC
         LIMIT 1) b ON (true));

ALTER TABLE toll.journal_status OWNER TO toll_owner;

COMMENT ON VIEW toll.journal_status IS 'Each journal and writer: its watermark, its last batch, and how far behind that was';

COMMENT ON COLUMN toll.journal_status.journal_id IS 'The journal';

COMMENT ON COLUMN toll.journal_status.writer IS 'The writer';

COMMENT ON COLUMN toll.journal_status.host IS 'The machine its daemon runs on';

COMMENT ON COLUMN toll.journal_status.version IS 'The daemon''s version';

COMMENT ON COLUMN toll.journal_status.lsn IS 'The watermark: everything below is stored';

COMMENT ON COLUMN toll.journal_status.created_at IS 'When the journal was first seen here';

COMMENT ON COLUMN toll.journal_status.seen_at IS 'When its daemon last connected or committed';

COMMENT ON COLUMN toll.journal_status.last_batch_id IS 'Its last batch';

COMMENT ON COLUMN toll.journal_status.last_committed_at IS 'When that was stored';

COMMENT ON COLUMN toll.journal_status.last_received_at IS 'When the last frame in it was received';

COMMENT ON COLUMN toll.journal_status.last_delay IS 'The time between the two';

COMMENT ON COLUMN toll.journal_status.live_sessions IS 'Live sessions it owns';

CREATE TABLE toll.meta (
    key text NOT NULL,
    value text NOT NULL
);

ALTER TABLE toll.meta OWNER TO toll_owner;

COMMENT ON TABLE toll.meta IS 'Facts about this database';

COMMENT ON COLUMN toll.meta.key IS 'The fact: database_uuid';

COMMENT ON COLUMN toll.meta.value IS 'Its value';

CREATE TABLE toll.migrations (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE toll.migrations OWNER TO toll_owner;

COMMENT ON TABLE toll.migrations IS 'What of the schema has been applied to this database';

COMMENT ON COLUMN toll.migrations.name IS 'migrations/..., functions/..., views/... or roles';

COMMENT ON COLUMN toll.migrations.checksum IS 'Of the SQL text that was applied';

COMMENT ON COLUMN toll.migrations.applied_at IS 'When';

CREATE VIEW toll.partitions AS
 SELECT (p.relname)::text AS parent,
    (c.relname)::text AS partition,
        CASE
            WHEN (c.relname ~ '_[0-9]{4}_[0-9]{2}$'::text) THEN to_date("right"((c.relname)::text, 7), 'YYYY_MM'::text)
            ELSE NULL::date
        END AS month,
    (c.reltuples)::bigint AS estimated_rows,
    pg_total_relation_size((c.oid)::regclass) AS bytes
   FROM ((pg_inherits i
     JOIN pg_class c ON ((c.oid = i.inhrelid)))
     JOIN pg_class p ON ((p.oid = i.inhparent)))
  WHERE ((p.oid = ANY (ARRAY[('public.billing_events'::regclass)::oid, ('public.session_transcripts'::regclass)::oid])) AND (c.relnamespace = ('toll'::regnamespace)::oid) AND (c.relname ~ (('^'::text || (p.relname)::text) || '_(default|[0-9]{4}_[0-9]{2})$'::text)));

ALTER TABLE toll.partitions OWNER TO toll_owner;

COMMENT ON VIEW toll.partitions IS 'The partitions toll made: see toll.make_partitions, toll.drop_partitions';

COMMENT ON COLUMN toll.partitions.parent IS 'billing_events or session_transcripts';

COMMENT ON COLUMN toll.partitions.partition IS 'The partition, in schema toll';

COMMENT ON COLUMN toll.partitions.month IS 'First day of its month (UTC); NULL: the default partition';

COMMENT ON COLUMN toll.partitions.estimated_rows IS 'Rows at its last vacuum or analyze; -1: none yet';

COMMENT ON COLUMN toll.partitions.bytes IS 'Its size on disk, indexes included';

CREATE TABLE toll.quarantine (
    id bigint NOT NULL,
    batch_id bigint,
    journal_id uuid,
    lsn bigint,
    frame_index integer,
    stream_id uuid,
    seq bigint,
    uid bigint,
    pid integer,
    received_at timestamp with time zone,
    reason text NOT NULL,
    bytes bytea NOT NULL
);

ALTER TABLE toll.quarantine OWNER TO toll_owner;

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

CREATE SEQUENCE toll.quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER TABLE toll.quarantine_id_seq OWNER TO toll_owner;

ALTER SEQUENCE toll.quarantine_id_seq OWNED BY toll.quarantine.id;

CREATE VIEW toll.quarantine_summary AS
 SELECT regexp_replace(quarantine.reason, '[0-9]+'::text, '#'::text, 'g'::text) AS kind,
    count(*) AS frames,
    min(quarantine.reason) AS example,
    count(DISTINCT quarantine.uid) AS senders,
    sum(length(quarantine.bytes)) AS bytes,
    min(quarantine.received_at) AS first_at,
    max(quarantine.received_at) AS last_at,
    max(quarantine.id) AS last_id
   FROM toll.quarantine
  GROUP BY (regexp_replace(quarantine.reason, '[0-9]+'::text, '#'::text, 'g'::text));

ALTER TABLE toll.quarantine_summary OWNER TO toll_owner;

COMMENT ON VIEW toll.quarantine_summary IS 'What was refused and why, reasons that differ only in numbers taken together';

COMMENT ON COLUMN toll.quarantine_summary.kind IS 'The reason, with # for every number';

COMMENT ON COLUMN toll.quarantine_summary.frames IS 'How many frames';

COMMENT ON COLUMN toll.quarantine_summary.example IS 'One of the reasons in full';

COMMENT ON COLUMN toll.quarantine_summary.senders IS 'How many user ids sent them';

COMMENT ON COLUMN toll.quarantine_summary.bytes IS 'Their bytes';

COMMENT ON COLUMN toll.quarantine_summary.first_at IS 'When the first was received';

COMMENT ON COLUMN toll.quarantine_summary.last_at IS 'When the last was received';

COMMENT ON COLUMN toll.quarantine_summary.last_id IS 'The last one''s id in toll.quarantine';

CREATE TABLE toll.removed_rows (
    batch_id bigint NOT NULL,
    events bigint DEFAULT 0 NOT NULL,
    transcripts bigint DEFAULT 0 NOT NULL,
    quarantined bigint DEFAULT 0 NOT NULL
);

ALTER TABLE toll.removed_rows OWNER TO toll_owner;

COMMENT ON TABLE toll.removed_rows IS 'How many rows of a batch retention has removed, so that toll.verify() can still account for every row';

COMMENT ON COLUMN toll.removed_rows.batch_id IS 'The batch';

COMMENT ON COLUMN toll.removed_rows.events IS 'Rows removed from billing_events';

COMMENT ON COLUMN toll.removed_rows.transcripts IS 'Rows removed from session_transcripts';

COMMENT ON COLUMN toll.removed_rows.quarantined IS 'Rows removed from toll.quarantine';

CREATE TABLE toll.session_transcripts_2026_11 (
    id bigint DEFAULT nextval('public.session_transcripts_id_seq'::regclass) NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid,
    role text,
    text text,
    language text,
    interrupted boolean DEFAULT false NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    batch_id bigint,
    occurred_at_reported timestamp with time zone,
    raw_json jsonb
)
WITH (autovacuum_freeze_min_age='0', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE toll.session_transcripts_2026_11 OWNER TO toll_owner;

CREATE TABLE toll.session_transcripts_2026_12 (
    id bigint DEFAULT nextval('public.session_transcripts_id_seq'::regclass) NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid,
    role text,
    text text,
    language text,
    interrupted boolean DEFAULT false NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    batch_id bigint,
    occurred_at_reported timestamp with time zone,
    raw_json jsonb
)
WITH (autovacuum_freeze_min_age='0', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE toll.session_transcripts_2026_12 OWNER TO toll_owner;

CREATE TABLE toll.session_transcripts_2027_01 (
    id bigint DEFAULT nextval('public.session_transcripts_id_seq'::regclass) NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid,
    role text,
    text text,
    language text,
    interrupted boolean DEFAULT false NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    batch_id bigint,
    occurred_at_reported timestamp with time zone,
    raw_json jsonb
)
WITH (autovacuum_freeze_min_age='0', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05');

ALTER TABLE toll.session_transcripts_2027_01 OWNER TO toll_owner;

CREATE TABLE toll.session_transcripts_default (
    id bigint DEFAULT nextval('public.session_transcripts_id_seq'::regclass) NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid,
    role text,
    text text,
    language text,
    interrupted boolean DEFAULT false NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    batch_id bigint,
    occurred_at_reported timestamp with time zone,
    raw_json jsonb
);

ALTER TABLE toll.session_transcripts_default OWNER TO toll_owner;

COMMENT ON TABLE toll.session_transcripts_default IS 'Transcripts of months that have no partition';

CREATE TABLE toll.streams (
    uid bigint NOT NULL,
    stream_id uuid NOT NULL,
    writer integer NOT NULL,
    seen int8multirange NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    client text,
    host text,
    pid integer,
    first_seen_at timestamp with time zone,
    last_seen_at timestamp with time zone,
    base bigint DEFAULT 1 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.1');

ALTER TABLE toll.streams OWNER TO toll_owner;

COMMENT ON TABLE toll.streams IS 'The frame numbers that were applied, per sending process. Rows idle for a week are dropped. Holes: toll.stream_holes';

COMMENT ON COLUMN toll.streams.uid IS 'User id of the sender';

COMMENT ON COLUMN toll.streams.stream_id IS 'The random id the sending process took';

COMMENT ON COLUMN toll.streams.writer IS 'The writer that keeps this row';

COMMENT ON COLUMN toll.streams.seen IS 'The numbers applied; one range from base on when nothing is missing';

COMMENT ON COLUMN toll.streams.revision IS 'Counts the changes of this row';

COMMENT ON COLUMN toll.streams.client IS 'What the sender calls itself';

COMMENT ON COLUMN toll.streams.host IS 'The machine it runs on';

COMMENT ON COLUMN toll.streams.pid IS 'Its process id';

COMMENT ON COLUMN toll.streams.first_seen_at IS 'When its first frame was received';

COMMENT ON COLUMN toll.streams.last_seen_at IS 'When its latest frame was received';

COMMENT ON COLUMN toll.streams.base IS 'The lowest number that a daemon here was told of. What is below was acknowledged elsewhere, or long ago: no hole, if it is missing';

CREATE VIEW toll.stream_holes AS
 SELECT s.uid,
    s.stream_id,
    s.writer,
    lower(hole.hole) AS from_seq,
    (upper(hole.hole) - 1) AS to_seq,
    (upper(hole.hole) - lower(hole.hole)) AS missing,
    s.client,
    s.host,
    s.pid,
    s.last_seen_at
   FROM (toll.streams s
     CROSS JOIN LATERAL unnest((int8multirange(int8range(LEAST(s.base, upper(s.seen)), upper(s.seen))) - s.seen)) hole(hole))
  WHERE (NOT isempty(s.seen));

ALTER TABLE toll.stream_holes OWNER TO toll_owner;

COMMENT ON VIEW toll.stream_holes IS 'Frame numbers that never came though later ones did: visible losses. No rows: none';

COMMENT ON COLUMN toll.stream_holes.uid IS 'User id of the sender';

COMMENT ON COLUMN toll.stream_holes.stream_id IS 'The sending process''s stream';

COMMENT ON COLUMN toll.stream_holes.writer IS 'The writer whose row shows it';

COMMENT ON COLUMN toll.stream_holes.from_seq IS 'The first number missing';

COMMENT ON COLUMN toll.stream_holes.to_seq IS 'The last number missing';

COMMENT ON COLUMN toll.stream_holes.missing IS 'How many these are';

COMMENT ON COLUMN toll.stream_holes.client IS 'What the sender calls itself';

COMMENT ON COLUMN toll.stream_holes.host IS 'The machine it runs on';

COMMENT ON COLUMN toll.stream_holes.pid IS 'Its process id';

COMMENT ON COLUMN toll.stream_holes.last_seen_at IS 'When its latest frame was received';

ALTER TABLE ONLY public.billing_events ATTACH PARTITION toll.billing_events_2026_11 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');

ALTER TABLE ONLY public.billing_events ATTACH PARTITION toll.billing_events_2026_12 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');

ALTER TABLE ONLY public.billing_events ATTACH PARTITION toll.billing_events_2027_01 FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00');

ALTER TABLE ONLY public.billing_events ATTACH PARTITION toll.billing_events_default DEFAULT;

ALTER TABLE ONLY public.session_transcripts ATTACH PARTITION toll.session_transcripts_2026_11 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');

ALTER TABLE ONLY public.session_transcripts ATTACH PARTITION toll.session_transcripts_2026_12 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');

ALTER TABLE ONLY public.session_transcripts ATTACH PARTITION toll.session_transcripts_2027_01 FOR VALUES FROM ('2027-01-01 00:00:00+00') TO ('2027-02-01 00:00:00+00');

ALTER TABLE ONLY public.session_transcripts ATTACH PARTITION toll.session_transcripts_default DEFAULT;

ALTER TABLE ONLY public.billing_events ALTER COLUMN id SET DEFAULT nextval('public.billing_events_id_seq'::regclass);

ALTER TABLE ONLY public.session_transcripts ALTER COLUMN id SET DEFAULT nextval('public.session_transcripts_id_seq'::regclass);

ALTER TABLE ONLY toll.gaps ALTER COLUMN id SET DEFAULT nextval('toll.gaps_id_seq'::regclass);

ALTER TABLE ONLY toll.quarantine ALTER COLUMN id SET DEFAULT nextval('toll.quarantine_id_seq'::regclass);

COPY public.billing_sessions (session_id, started_at, ended_at, duration_secs, finish_reason, llm_input_tokens, llm_output_tokens, llm_calls, tts_chars, tts_calls, stt_audio_ms, stt_calls, metadata, start_missing, shared, owner_journal, owner_writer, revision, duplicate_starts, duplicate_ends, started_at_reported, ended_at_reported, sealed, raw_json, created_at, updated_at) FROM stdin;
4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	2026-11-21 14:41:48.018664+00	\N	\N	\N	0	0	0	0	0	0	0	{"user_id": "u_43"}	f	f	79de12f1-a836-4e26-9656-bf11e7ec5453	0	0	0	0	\N	\N	f	\N	2026-11-21 14:41:48.13275+00	2026-11-21 14:41:48.13275+00
50842609-c81a-5886-bf64-c171e3751db1	2026-11-21 14:41:48.002556+00	2026-11-21 14:41:48.002852+00	0.000296	end	310	66	4	123	3	3004.5	3	{"user_id": "u_42", "tenant_id": "t_1"}	f	f	79de12f1-a836-4e26-9656-bf11e7ec5453	0	1	0	0	\N	\N	f	\N	2026-11-21 14:41:48.13275+00	2026-11-21 14:41:49.267528+00
\.

COPY toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events, transcripts, first_received_at, last_received_at, committed_at) FROM stdin;
1	79de12f1-a836-4e26-9656-bf11e7ec5453	0	0	4191	33	33	0	0	18	12	2026-11-21 14:41:48.003281+00	2026-11-21 14:41:48.020885+00	2026-11-21 14:41:48.197137+00
2	79de12f1-a836-4e26-9656-bf11e7ec5453	0	4191	4581	3	2	1	0	1	0	2026-11-21 14:41:48.265829+00	2026-11-21 14:41:48.265986+00	2026-11-21 14:41:48.382576+00
3	79de12f1-a836-4e26-9656-bf11e7ec5453	0	4581	4837	1	1	0	0	1	0	2026-11-21 14:41:49.137997+00	2026-11-21 14:41:49.137997+00	2026-11-21 14:41:49.539652+00
4	79de12f1-a836-4e26-9656-bf11e7ec5453	0	4837	5093	1	0	0	1	0	0	2026-11-21 14:41:49.342169+00	2026-11-21 14:41:49.342169+00	2026-11-21 14:41:49.557075+00
\.

COPY toll.billing_events_2026_11 (id, session_id, event_type, provider, model, input_tokens, output_tokens, estimated, char_count, voice, audio_duration_ms, occurred_at, raw_json, batch_id, turn_id, agent, request_id, language, cached_input_tokens, cache_write_tokens, audio_input_tokens, cached_audio_tokens, audio_output_tokens, reasoning_tokens, ttfb_ms, duration_ms, interrupted, meter, quantity, account, occurred_at_reported) FROM stdin;
1	50842609-c81a-5886-bf64-c171e3751db1	stt	deepgram	nova-2	\N	\N	\N	\N	\N	1000.5	2026-11-21 14:41:48.003281+00	\N	1	623f2931-7a5a-42ee-bc25-33337c51b2eb	\N	\N	en	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
2	50842609-c81a-5886-bf64-c171e3751db1	llm	openai	gpt-4o	100	20	f	\N	\N	\N	2026-11-21 14:41:48.003281+00	\N	1	af50e0fe-85ae-4dfe-9687-31c0affd0e95	\N	\N	\N	50	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
3	50842609-c81a-5886-bf64-c171e3751db1	tts	cartesia	\N	\N	\N	\N	40	alto	\N	2026-11-21 14:41:48.003281+00	\N	1	af50e0fe-85ae-4dfe-9687-31c0affd0e95	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
4	50842609-c81a-5886-bf64-c171e3751db1	stt	deepgram	nova-2	\N	\N	\N	\N	\N	1001.5	2026-11-21 14:41:48.003281+00	\N	1	6b1309d6-f622-4d0e-a831-cd3c8ad0b42b	\N	\N	en	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
5	50842609-c81a-5886-bf64-c171e3751db1	llm	openai	gpt-4o	101	21	f	\N	\N	\N	2026-11-21 14:41:48.003281+00	\N	1	aaf42368-ef49-403c-bed9-f4554eeb1541	\N	\N	\N	50	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
6	50842609-c81a-5886-bf64-c171e3751db1	tts	cartesia	\N	\N	\N	\N	41	alto	\N	2026-11-21 14:41:48.003281+00	\N	1	aaf42368-ef49-403c-bed9-f4554eeb1541	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
7	50842609-c81a-5886-bf64-c171e3751db1	stt	deepgram	nova-2	\N	\N	\N	\N	\N	1002.5	2026-11-21 14:41:48.003281+00	\N	1	67192baf-fc38-4dd5-8afa-d7c08e89565c	\N	\N	en	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
8	50842609-c81a-5886-bf64-c171e3751db1	llm	openai	gpt-4o	102	22	f	\N	\N	\N	2026-11-21 14:41:48.003281+00	\N	1	8e5eb31c-6f4a-4c47-a3c6-48944c3f207d	\N	\N	\N	50	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
9	50842609-c81a-5886-bf64-c171e3751db1	tts	cartesia	\N	\N	\N	\N	42	alto	\N	2026-11-21 14:41:48.003281+00	\N	1	8e5eb31c-6f4a-4c47-a3c6-48944c3f207d	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
10	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	stt	deepgram	nova-2	\N	\N	\N	\N	\N	1000.5	2026-11-21 14:41:48.020885+00	\N	1	e0e7a415-3342-4ee9-bbc5-7da9de0436a5	\N	\N	en	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
11	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	llm	openai	gpt-4o	100	20	f	\N	\N	\N	2026-11-21 14:41:48.020885+00	\N	1	94d402fa-fa9c-44b5-84d2-ad07406fdf00	\N	\N	\N	50	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
12	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	tts	cartesia	\N	\N	\N	\N	40	alto	\N	2026-11-21 14:41:48.020885+00	\N	1	94d402fa-fa9c-44b5-84d2-ad07406fdf00	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
13	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	stt	deepgram	nova-2	\N	\N	\N	\N	\N	1001.5	2026-11-21 14:41:48.020885+00	\N	1	9c5ae70a-b941-40d3-bd35-c2d126294f46	\N	\N	en	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
14	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	llm	openai	gpt-4o	101	21	f	\N	\N	\N	2026-11-21 14:41:48.020885+00	\N	1	46758bf9-c584-4183-a268-e36b6c07b038	\N	\N	\N	50	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
15	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	tts	cartesia	\N	\N	\N	\N	41	alto	\N	2026-11-21 14:41:48.020885+00	\N	1	46758bf9-c584-4183-a268-e36b6c07b038	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
16	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	stt	deepgram	nova-2	\N	\N	\N	\N	\N	1002.5	2026-11-21 14:41:48.020885+00	\N	1	3be14053-6d53-45ba-9cb6-90bda8d56798	\N	\N	en	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
17	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	llm	openai	gpt-4o	102	22	f	\N	\N	\N	2026-11-21 14:41:48.020885+00	\N	1	2113a881-0e2d-43a9-8f08-03728cad47ad	\N	\N	\N	50	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
18	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	tts	cartesia	\N	\N	\N	\N	42	alto	\N	2026-11-21 14:41:48.020885+00	\N	1	2113a881-0e2d-43a9-8f08-03728cad47ad	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
19	\N	usage	\N	\N	\N	\N	\N	\N	\N	\N	2026-11-21 14:41:48.265986+00	\N	2	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	storage_mb	12.5	acme	\N
20	50842609-c81a-5886-bf64-c171e3751db1	llm	openai	gpt-4o	7	3	f	\N	\N	\N	2026-11-21 14:41:49.137997+00	\N	3	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
\.

COPY toll.billing_events_2026_12 (id, session_id, event_type, provider, model, input_tokens, output_tokens, estimated, char_count, voice, audio_duration_ms, occurred_at, raw_json, batch_id, turn_id, agent, request_id, language, cached_input_tokens, cache_write_tokens, audio_input_tokens, cached_audio_tokens, audio_output_tokens, reasoning_tokens, ttfb_ms, duration_ms, interrupted, meter, quantity, account, occurred_at_reported) FROM stdin;
\.

COPY toll.billing_events_2027_01 (id, session_id, event_type, provider, model, input_tokens, output_tokens, estimated, char_count, voice, audio_duration_ms, occurred_at, raw_json, batch_id, turn_id, agent, request_id, language, cached_input_tokens, cache_write_tokens, audio_input_tokens, cached_audio_tokens, audio_output_tokens, reasoning_tokens, ttfb_ms, duration_ms, interrupted, meter, quantity, account, occurred_at_reported) FROM stdin;
\.

COPY toll.billing_events_default (id, session_id, event_type, provider, model, input_tokens, output_tokens, estimated, char_count, voice, audio_duration_ms, occurred_at, raw_json, batch_id, turn_id, agent, request_id, language, cached_input_tokens, cache_write_tokens, audio_input_tokens, cached_audio_tokens, audio_output_tokens, reasoning_tokens, ttfb_ms, duration_ms, interrupted, meter, quantity, account, occurred_at_reported) FROM stdin;
\.

COPY toll.gaps (id, batch_id, stream_id, seq, uid, pid, session_id, count, since, until, received_at, raw_json) FROM stdin;
1	2	00010203-0405-0607-0809-0a0b0c0d0e0f	35	0	25567	\N	5	\N	\N	2026-11-21 14:41:48.265986+00	\N
\.

COPY toll.journal_runs (journal_id, writer, run, lsn, ended_at) FROM stdin;
79de12f1-a836-4e26-9656-bf11e7ec5453	0	368867c2-8657-4bde-b037-4e9e730d5dd7	4581	2026-11-21 14:41:49.19082+00
\.

COPY toll.journals (journal_id, writer, lsn, host, version, created_at, seen_at, run) FROM stdin;
79de12f1-a836-4e26-9656-bf11e7ec5453	0	5093	vm	0.1.0	2026-11-21 14:41:48.080588+00	2026-11-21 14:41:49.552901+00	b8c97afe-333a-4dc5-86fc-01b5922f7cda
\.

COPY toll.meta (key, value) FROM stdin;
database_uuid	83f91ed3-7f23-43df-a176-eda3617d07a4
\.

COPY toll.migrations (name, checksum, applied_at) FROM stdin;
migrations/001_core	0888586b2d6539d2	2026-11-21 14:41:46.532872+00
migrations/002_bookkeeping	11b11c3a953ec1e4	2026-11-21 14:41:46.633658+00
migrations/003_stream_base	88ec6d508a0c1d64	2026-11-21 14:41:46.794789+00
migrations/004_journal_runs	4811e7d22475ee7b	2026-11-21 14:41:46.803549+00
functions/erasure	bf95da1cb99f4f94	2026-11-21 14:41:46.81967+00
functions/journals	4263f382cf885ab4	2026-11-21 14:41:46.828727+00
functions/partitions	c5bfb888fa79f1cb	2026-11-21 14:41:46.843707+00
functions/sessions	7df28cf82ef3c94d	2026-11-21 14:41:47.200623+00
functions/totals	337bf4e1678373c6	2026-11-21 14:41:47.242649+00
functions/verify	db336459b9a8a167	2026-11-21 14:41:47.272621+00
views/operations	3d609df541c126cc	2026-11-21 14:41:47.304872+00
views/sessions	a7e9cdef91627c0e	2026-11-21 14:41:47.342223+00
views/usage	6d67824d014d7908	2026-11-21 14:41:47.404673+00
roles	c4faa6bf7ed92460	2026-11-21 14:41:47.442501+00
\.

COPY toll.quarantine (id, batch_id, journal_id, lsn, frame_index, stream_id, seq, uid, pid, received_at, reason, bytes) FROM stdin;
1	2	79de12f1-a836-4e26-9656-bf11e7ec5453	4191	0	00010203-0405-0607-0809-0a0b0c0d0e0f	34	0	25567	2026-11-21 14:41:48.265829+00	unknown type "fax"	\\x82a474797065a3666178aa73657373696f6e5f6964c4104106a9aeaa3b59c39bad37d3a5270c9c
\.

COPY toll.removed_rows (batch_id, events, transcripts, quarantined) FROM stdin;
\.

COPY toll.session_transcripts_2026_11 (id, session_id, turn_id, role, text, language, interrupted, occurred_at, batch_id, occurred_at_reported, raw_json) FROM stdin;
1	50842609-c81a-5886-bf64-c171e3751db1	623f2931-7a5a-42ee-bc25-33337c51b2eb	user	question 0	en	f	2026-11-21 14:41:48.003281+00	1	\N	\N
2	50842609-c81a-5886-bf64-c171e3751db1	af50e0fe-85ae-4dfe-9687-31c0affd0e95	assistant	answer 0	\N	f	2026-11-21 14:41:48.003281+00	1	\N	\N
3	50842609-c81a-5886-bf64-c171e3751db1	6b1309d6-f622-4d0e-a831-cd3c8ad0b42b	user	question 1	en	f	2026-11-21 14:41:48.003281+00	1	\N	\N
4	50842609-c81a-5886-bf64-c171e3751db1	aaf42368-ef49-403c-bed9-f4554eeb1541	assistant	answer 1	\N	t	2026-11-21 14:41:48.003281+00	1	\N	\N
5	50842609-c81a-5886-bf64-c171e3751db1	67192baf-fc38-4dd5-8afa-d7c08e89565c	user	question 2	en	f	2026-11-21 14:41:48.003281+00	1	\N	\N
6	50842609-c81a-5886-bf64-c171e3751db1	8e5eb31c-6f4a-4c47-a3c6-48944c3f207d	assistant	answer 2	\N	f	2026-11-21 14:41:48.003281+00	1	\N	\N
7	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	e0e7a415-3342-4ee9-bbc5-7da9de0436a5	user	question 0	en	f	2026-11-21 14:41:48.020885+00	1	\N	\N
8	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	94d402fa-fa9c-44b5-84d2-ad07406fdf00	assistant	answer 0	\N	f	2026-11-21 14:41:48.020885+00	1	\N	\N
9	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	9c5ae70a-b941-40d3-bd35-c2d126294f46	user	question 1	en	f	2026-11-21 14:41:48.020885+00	1	\N	\N
10	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	46758bf9-c584-4183-a268-e36b6c07b038	assistant	answer 1	\N	t	2026-11-21 14:41:48.020885+00	1	\N	\N
11	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	3be14053-6d53-45ba-9cb6-90bda8d56798	user	question 2	en	f	2026-11-21 14:41:48.020885+00	1	\N	\N
12	4106a9ae-aa3b-59c3-9bad-37d3a5270c9c	2113a881-0e2d-43a9-8f08-03728cad47ad	assistant	answer 2	\N	f	2026-11-21 14:41:48.020885+00	1	\N	\N
\.

COPY toll.session_transcripts_2026_12 (id, session_id, turn_id, role, text, language, interrupted, occurred_at, batch_id, occurred_at_reported, raw_json) FROM stdin;
\.

COPY toll.session_transcripts_2027_01 (id, session_id, turn_id, role, text, language, interrupted, occurred_at, batch_id, occurred_at_reported, raw_json) FROM stdin;
\.

COPY toll.session_transcripts_default (id, session_id, turn_id, role, text, language, interrupted, occurred_at, batch_id, occurred_at_reported, raw_json) FROM stdin;
\.

COPY toll.streams (uid, stream_id, writer, seen, revision, client, host, pid, first_seen_at, last_seen_at, base) FROM stdin;
0	00010203-0405-0607-0809-0a0b0c0d0e0f	0	{[1,38)}	3	python-test	\N	25567	2026-11-21 14:41:48.13275+00	2026-11-21 14:41:49.267528+00	1
\.

SELECT pg_catalog.setval('public.billing_events_id_seq', 20, true);

SELECT pg_catalog.setval('public.session_transcripts_id_seq', 12, true);

SELECT pg_catalog.setval('toll.batch_id_seq', 4, true);

SELECT pg_catalog.setval('toll.gaps_id_seq', 1, true);

SELECT pg_catalog.setval('toll.quarantine_id_seq', 1, true);

ALTER TABLE ONLY public.billing_events
    ADD CONSTRAINT billing_events_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY public.billing_sessions
    ADD CONSTRAINT billing_sessions_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY public.session_transcripts
    ADD CONSTRAINT session_transcripts_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.batches
    ADD CONSTRAINT batches_journal_range_key UNIQUE (journal_id, writer, from_lsn);

ALTER TABLE ONLY toll.batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY toll.billing_events_2026_11
    ADD CONSTRAINT billing_events_2026_11_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.billing_events_2026_12
    ADD CONSTRAINT billing_events_2026_12_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.billing_events_2027_01
    ADD CONSTRAINT billing_events_2027_01_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.billing_events_default
    ADD CONSTRAINT billing_events_default_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.gaps
    ADD CONSTRAINT gaps_pkey PRIMARY KEY (id);

ALTER TABLE ONLY toll.journal_runs
    ADD CONSTRAINT journal_runs_pkey PRIMARY KEY (journal_id, writer, run);

ALTER TABLE ONLY toll.journals
    ADD CONSTRAINT journals_pkey PRIMARY KEY (journal_id, writer);

ALTER TABLE ONLY toll.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (key);

ALTER TABLE ONLY toll.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY toll.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);

ALTER TABLE ONLY toll.removed_rows
    ADD CONSTRAINT removed_rows_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY toll.session_transcripts_2026_11
    ADD CONSTRAINT session_transcripts_2026_11_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.session_transcripts_2026_12
    ADD CONSTRAINT session_transcripts_2026_12_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.session_transcripts_2027_01
    ADD CONSTRAINT session_transcripts_2027_01_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.session_transcripts_default
    ADD CONSTRAINT session_transcripts_default_pkey PRIMARY KEY (id, occurred_at);

ALTER TABLE ONLY toll.streams
    ADD CONSTRAINT streams_pkey PRIMARY KEY (uid, stream_id, writer);

CREATE INDEX billing_events_batch_id_idx ON ONLY public.billing_events USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX billing_events_session_id_idx ON ONLY public.billing_events USING btree (session_id, occurred_at);

CREATE INDEX billing_sessions_live_owner_idx ON public.billing_sessions USING btree (owner_journal, owner_writer) WHERE (ended_at IS NULL);

COMMENT ON INDEX public.billing_sessions_live_owner_idx IS 'Live sessions, by owner';

CREATE INDEX billing_sessions_user_id_idx ON public.billing_sessions USING btree (((metadata ->> 'user_id'::text)), started_at DESC);

COMMENT ON INDEX public.billing_sessions_user_id_idx IS 'For WHERE metadata->>''user_id'' = ... ORDER BY started_at DESC';

CREATE INDEX session_transcripts_batch_id_idx ON ONLY public.session_transcripts USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX session_transcripts_session_id_idx ON ONLY public.session_transcripts USING btree (session_id, occurred_at);

CREATE INDEX billing_events_2026_11_batch_id_idx ON toll.billing_events_2026_11 USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX billing_events_2026_11_session_id_occurred_at_idx ON toll.billing_events_2026_11 USING btree (session_id, occurred_at);

CREATE INDEX billing_events_2026_12_batch_id_idx ON toll.billing_events_2026_12 USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX billing_events_2026_12_session_id_occurred_at_idx ON toll.billing_events_2026_12 USING btree (session_id, occurred_at);

CREATE INDEX billing_events_2027_01_batch_id_idx ON toll.billing_events_2027_01 USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX billing_events_2027_01_session_id_occurred_at_idx ON toll.billing_events_2027_01 USING btree (session_id, occurred_at);

CREATE INDEX billing_events_default_batch_id_idx ON toll.billing_events_default USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX billing_events_default_session_id_occurred_at_idx ON toll.billing_events_default USING btree (session_id, occurred_at);

CREATE INDEX quarantine_batch_id_idx ON toll.quarantine USING btree (batch_id);

CREATE INDEX session_transcripts_2026_11_batch_id_idx ON toll.session_transcripts_2026_11 USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX session_transcripts_2026_11_session_id_occurred_at_idx ON toll.session_transcripts_2026_11 USING btree (session_id, occurred_at);

CREATE INDEX session_transcripts_2026_12_batch_id_idx ON toll.session_transcripts_2026_12 USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX session_transcripts_2026_12_session_id_occurred_at_idx ON toll.session_transcripts_2026_12 USING btree (session_id, occurred_at);

CREATE INDEX session_transcripts_2027_01_batch_id_idx ON toll.session_transcripts_2027_01 USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX session_transcripts_2027_01_session_id_occurred_at_idx ON toll.session_transcripts_2027_01 USING btree (session_id, occurred_at);

CREATE INDEX session_transcripts_default_batch_id_idx ON toll.session_transcripts_default USING brin (batch_id) WITH (autosummarize='on');

CREATE INDEX session_transcripts_default_session_id_occurred_at_idx ON toll.session_transcripts_default USING btree (session_id, occurred_at);

ALTER INDEX public.billing_events_batch_id_idx ATTACH PARTITION toll.billing_events_2026_11_batch_id_idx;

ALTER INDEX public.billing_events_pkey ATTACH PARTITION toll.billing_events_2026_11_pkey;

ALTER INDEX public.billing_events_session_id_idx ATTACH PARTITION toll.billing_events_2026_11_session_id_occurred_at_idx;

ALTER INDEX public.billing_events_batch_id_idx ATTACH PARTITION toll.billing_events_2026_12_batch_id_idx;

ALTER INDEX public.billing_events_pkey ATTACH PARTITION toll.billing_events_2026_12_pkey;

ALTER INDEX public.billing_events_session_id_idx ATTACH PARTITION toll.billing_events_2026_12_session_id_occurred_at_idx;

ALTER INDEX public.billing_events_batch_id_idx ATTACH PARTITION toll.billing_events_2027_01_batch_id_idx;

ALTER INDEX public.billing_events_pkey ATTACH PARTITION toll.billing_events_2027_01_pkey;

ALTER INDEX public.billing_events_session_id_idx ATTACH PARTITION toll.billing_events_2027_01_session_id_occurred_at_idx;

ALTER INDEX public.billing_events_batch_id_idx ATTACH PARTITION toll.billing_events_default_batch_id_idx;

ALTER INDEX public.billing_events_pkey ATTACH PARTITION toll.billing_events_default_pkey;

ALTER INDEX public.billing_events_session_id_idx ATTACH PARTITION toll.billing_events_default_session_id_occurred_at_idx;

ALTER INDEX public.session_transcripts_batch_id_idx ATTACH PARTITION toll.session_transcripts_2026_11_batch_id_idx;

ALTER INDEX public.session_transcripts_pkey ATTACH PARTITION toll.session_transcripts_2026_11_pkey;

ALTER INDEX public.session_transcripts_session_id_idx ATTACH PARTITION toll.session_transcripts_2026_11_session_id_occurred_at_idx;

ALTER INDEX public.session_transcripts_batch_id_idx ATTACH PARTITION toll.session_transcripts_2026_12_batch_id_idx;

ALTER INDEX public.session_transcripts_pkey ATTACH PARTITION toll.session_transcripts_2026_12_pkey;

ALTER INDEX public.session_transcripts_session_id_idx ATTACH PARTITION toll.session_transcripts_2026_12_session_id_occurred_at_idx;

ALTER INDEX public.session_transcripts_batch_id_idx ATTACH PARTITION toll.session_transcripts_2027_01_batch_id_idx;

ALTER INDEX public.session_transcripts_pkey ATTACH PARTITION toll.session_transcripts_2027_01_pkey;

ALTER INDEX public.session_transcripts_session_id_idx ATTACH PARTITION toll.session_transcripts_2027_01_session_id_occurred_at_idx;

ALTER INDEX public.session_transcripts_batch_id_idx ATTACH PARTITION toll.session_transcripts_default_batch_id_idx;

ALTER INDEX public.session_transcripts_pkey ATTACH PARTITION toll.session_transcripts_default_pkey;

ALTER INDEX public.session_transcripts_session_id_idx ATTACH PARTITION toll.session_transcripts_default_session_id_occurred_at_idx;

ALTER TABLE public.billing_events
    ADD CONSTRAINT billing_events_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.billing_sessions(session_id);

ALTER TABLE public.session_transcripts
    ADD CONSTRAINT session_transcripts_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.billing_sessions(session_id);

GRANT ALL ON SCHEMA public TO toll_owner;

GRANT USAGE ON SCHEMA toll TO toll_ingest;
GRANT USAGE ON SCHEMA toll TO toll_reader;

REVOKE ALL ON FUNCTION toll.claim_journal(journal uuid, writer integer, last_run uuid, this_run uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.claim_journal(journal uuid, writer integer, last_run uuid, this_run uuid) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.drop_partitions(target text, before date, dry_run boolean, live_too boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION toll.drop_quarantine(before timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION toll.erase_session(session_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION toll.erase_sessions(session_ids uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION toll.erase_user(user_id text) FROM PUBLIC;

REVOKE ALL ON FUNCTION toll.idle_sessions(journal uuid, writer integer, silent_secs integer, idle_before_us bigint, most bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.idle_sessions(journal uuid, writer integer, silent_secs integer, idle_before_us bigint, most bigint) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.insert_sessions(journal uuid, writer integer) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.insert_sessions(journal uuid, writer integer) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.make_partition(month date) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.make_partition(month date) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.make_partitions(months_ahead integer) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.make_partitions(months_ahead integer) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.recompute_totals(session_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.recompute_totals(session_ids uuid[]) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.settle_sessions(journal uuid, writer integer, session_ids uuid[]) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.settle_sessions(journal uuid, writer integer, session_ids uuid[]) TO toll_ingest;

REVOKE ALL ON FUNCTION toll.verify(since timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.verify(since timestamp with time zone) TO toll_ingest;
GRANT ALL ON FUNCTION toll.verify(since timestamp with time zone) TO toll_reader;

REVOKE ALL ON FUNCTION toll.verify_rows_query(counter name, rows_of regclass) FROM PUBLIC;
GRANT ALL ON FUNCTION toll.verify_rows_query(counter name, rows_of regclass) TO toll_ingest;
GRANT ALL ON FUNCTION toll.verify_rows_query(counter name, rows_of regclass) TO toll_reader;

GRANT SELECT,INSERT ON TABLE public.billing_events TO toll_ingest;
GRANT SELECT ON TABLE public.billing_events TO toll_reader;

GRANT USAGE ON SEQUENCE public.billing_events_id_seq TO toll_ingest;

GRANT SELECT,INSERT,UPDATE ON TABLE public.billing_sessions TO toll_ingest;
GRANT SELECT ON TABLE public.billing_sessions TO toll_reader;

GRANT INSERT ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT ON TABLE public.session_transcripts TO toll_transcripts;

GRANT SELECT(id) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(id) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(session_id) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(session_id) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(turn_id) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(turn_id) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(role) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(role) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(language) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(language) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(interrupted) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(interrupted) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(occurred_at) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(occurred_at) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(batch_id) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(batch_id) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT(occurred_at_reported) ON TABLE public.session_transcripts TO toll_ingest;
GRANT SELECT(occurred_at_reported) ON TABLE public.session_transcripts TO toll_reader;

GRANT SELECT ON TABLE toll.session_sums TO toll_ingest;
GRANT SELECT ON TABLE toll.session_sums TO toll_reader;

GRANT SELECT ON TABLE public.session_totals TO toll_ingest;
GRANT SELECT ON TABLE public.session_totals TO toll_reader;

GRANT SELECT ON TABLE public.live_sessions TO toll_ingest;
GRANT SELECT ON TABLE public.live_sessions TO toll_reader;

GRANT SELECT ON TABLE public.model_usage TO toll_ingest;
GRANT SELECT ON TABLE public.model_usage TO toll_reader;

GRANT SELECT ON TABLE public.model_usage_daily TO toll_ingest;
GRANT SELECT ON TABLE public.model_usage_daily TO toll_reader;

GRANT USAGE ON SEQUENCE public.session_transcripts_id_seq TO toll_ingest;

GRANT USAGE ON SEQUENCE toll.batch_id_seq TO toll_ingest;

GRANT SELECT,INSERT ON TABLE toll.batches TO toll_ingest;
GRANT SELECT ON TABLE toll.batches TO toll_reader;

GRANT SELECT,INSERT ON TABLE toll.gaps TO toll_ingest;
GRANT SELECT ON TABLE toll.gaps TO toll_reader;

GRANT USAGE ON SEQUENCE toll.gaps_id_seq TO toll_ingest;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE toll.journal_runs TO toll_ingest;
GRANT SELECT ON TABLE toll.journal_runs TO toll_reader;

GRANT SELECT,INSERT,UPDATE ON TABLE toll.journals TO toll_ingest;
GRANT SELECT ON TABLE toll.journals TO toll_reader;

GRANT SELECT ON TABLE toll.journal_status TO toll_ingest;
GRANT SELECT ON TABLE toll.journal_status TO toll_reader;

GRANT SELECT ON TABLE toll.meta TO toll_ingest;
GRANT SELECT ON TABLE toll.meta TO toll_reader;

GRANT SELECT ON TABLE toll.migrations TO toll_ingest;
GRANT SELECT ON TABLE toll.migrations TO toll_reader;

GRANT SELECT ON TABLE toll.partitions TO toll_ingest;
GRANT SELECT ON TABLE toll.partitions TO toll_reader;

GRANT INSERT ON TABLE toll.quarantine TO toll_ingest;

GRANT SELECT(id) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(id) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(batch_id) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(batch_id) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(journal_id) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(journal_id) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(lsn) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(lsn) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(frame_index) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(frame_index) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(stream_id) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(stream_id) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(seq) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(seq) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(uid) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(uid) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(pid) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(pid) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(received_at) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(received_at) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(reason) ON TABLE toll.quarantine TO toll_ingest;
GRANT SELECT(reason) ON TABLE toll.quarantine TO toll_reader;

GRANT SELECT(bytes) ON TABLE toll.quarantine TO toll_ingest;

GRANT USAGE ON SEQUENCE toll.quarantine_id_seq TO toll_ingest;

GRANT SELECT ON TABLE toll.quarantine_summary TO toll_ingest;
GRANT SELECT ON TABLE toll.quarantine_summary TO toll_reader;

GRANT SELECT ON TABLE toll.removed_rows TO toll_ingest;
GRANT SELECT ON TABLE toll.removed_rows TO toll_reader;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE toll.streams TO toll_ingest;
GRANT SELECT ON TABLE toll.streams TO toll_reader;

GRANT SELECT ON TABLE toll.stream_holes TO toll_ingest;
GRANT SELECT ON TABLE toll.stream_holes TO toll_reader;

