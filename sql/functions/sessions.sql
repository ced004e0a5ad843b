-- What a batch does to sessions: R3's rules for starts, ends, duplicates, orphans and late events, and who may write totals.
--
-- tolld calls these within a batch's transaction (daemon/pg_sessions.c has the order, daemon/DESIGN.md the reasons). Each change is one
-- session's:
--   session_id, whole (memory is the whole story), idle_before (to be closed as idle if
--   nothing was received since), starts, ends, rows (frames of the batch), started_at (of the earliest start; without one, of the
--   first frame), last_at (latest frame that memory knows of, if any), ended_at and finish_reason (of the first end), *_reported (where the sender's time was clamped), metadata,
--   raw_json, the totals that memory has, and of a new session sender_uid and sender_stream: whose its last frame was that had an envelope.

CREATE OR REPLACE FUNCTION toll.insert_sessions(journal uuid, writer integer, changes toll.session_change[])
RETURNS SETOF uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH added AS (
        INSERT INTO public.billing_sessions AS s (
            session_id, started_at, started_at_reported, start_missing, duplicate_starts, metadata, raw_json,
            owner_journal, owner_writer, ended_at, ended_at_reported, finish_reason, duration_secs, duplicate_ends,
            llm_input_tokens, llm_output_tokens, llm_calls, tts_chars, tts_calls, stt_audio_ms, stt_calls)
        SELECT
            u.session_id, u.started_at, u.started_at_reported, u.starts = 0, greatest(u.starts - 1, 0),
            coalesce(u.metadata, '{}'), u.raw_json, insert_sessions.journal, insert_sessions.writer,
            e.final_end,
            CASE WHEN e.final_end > u.ended_at THEN coalesce(u.ended_at_reported, u.ended_at) ELSE u.ended_at_reported END,
            u.finish_reason, date_part('epoch', e.final_end - u.started_at), greatest(u.ends - 1, 0),
            -- Totals are written when a session ends; a call within one batch begins and ends here.
            u.llm_input_tokens * e.ended, u.llm_output_tokens * e.ended, u.llm_calls * e.ended, u.tts_chars * e.ended,
            u.tts_calls * e.ended, u.stt_audio_ms * e.ended, u.stt_calls * e.ended
        FROM unnest(insert_sessions.changes) AS u,
             LATERAL (SELECT CASE WHEN u.ends > 0 THEN greatest(u.ended_at, u.started_at) END AS final_end,
                             (u.ends > 0)::integer AS ended) AS e
        ORDER BY u.session_id
        ON CONFLICT (session_id) DO NOTHING
        RETURNING s.session_id, s.ended_at
    ), opened AS (
        INSERT INTO toll.open_sessions (session_id, sender_uid, sender_stream)
        SELECT u.session_id, u.sender_uid, u.sender_stream
        FROM unnest(insert_sessions.changes) AS u
        -- IS TRUE: hashed, however many there are.
        WHERE (u.session_id IN (SELECT a.session_id FROM added AS a WHERE a.ended_at IS NULL)) IS TRUE
        ON CONFLICT DO NOTHING
    ), queued AS (
        INSERT INTO toll.session_queue (journal_id, writer, session_id)
        SELECT insert_sessions.journal, insert_sessions.writer, a.session_id FROM added AS a
    )
    SELECT a.session_id FROM added AS a;
END $$;
REVOKE ALL ON FUNCTION toll.insert_sessions(uuid, integer, toll.session_change[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.insert_sessions(uuid, integer, toll.session_change[]) IS
    'For tolld, within a batch: inserts these sessions, owned by this journal and writer, and returns those that'
    ' were not there before. A session that was there is left alone: see toll.settle_sessions';

-- Functions of their own, so that what is asked of partitions is planned only where it is asked.
CREATE OR REPLACE FUNCTION toll.heard_since(session uuid, since timestamptz)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM (SELECT e.batch_id FROM public.billing_events AS e WHERE e.session_id = heard_since.session
                     UNION ALL
                     SELECT t.batch_id FROM public.session_transcripts AS t WHERE t.session_id = heard_since.session) AS r
        LEFT JOIN LATERAL (SELECT a.batch_id, a.last_received_at FROM toll.batches AS a WHERE a.batch_id = r.batch_id OFFSET 0) AS b ON true
        WHERE CASE WHEN b.batch_id IS NOT NULL THEN b.last_received_at
                   -- Rolled up: it came then, or earlier.
                   ELSE (SELECT u.last_received_at FROM toll.batch_rollups AS u WHERE u.last_batch_id >= r.batch_id ORDER BY u.last_batch_id LIMIT 1)
              END >= heard_since.since);
END $$;
REVOKE ALL ON FUNCTION toll.heard_since(uuid, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION toll.heard_since(uuid, timestamptz) IS
    'Whether an event or a transcript turn of the session came in a batch that received something since then';

CREATE OR REPLACE FUNCTION toll.last_row_at(session uuid)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN greatest(
        (SELECT max(e.occurred_at) FROM public.billing_events AS e WHERE e.session_id = last_row_at.session),
        (SELECT max(t.occurred_at) FROM public.session_transcripts AS t WHERE t.session_id = last_row_at.session));
END $$;
REVOKE ALL ON FUNCTION toll.last_row_at(uuid) FROM PUBLIC;
COMMENT ON FUNCTION toll.last_row_at(uuid) IS 'When the latest stored event or transcript turn of the session occurred; NULL: there is none';

CREATE OR REPLACE FUNCTION toll.settle_sessions(journal uuid, writer integer, changes toll.session_change[])
RETURNS TABLE (session_id uuid, ended boolean, to_sum boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off -- what was planned for small tables stays in use while they grow
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    -- OFFSET 0: each step is computed once, not again wherever a later one names it.
    WITH known AS (
        SELECT
            u.*, s.ctid AS place, s.started_at AS old_started, s.started_at_reported AS old_started_reported, s.start_missing,
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
                ELSE s.updated_at < u.idle_before AND NOT toll.heard_since(u.session_id, u.idle_before)
            END AS orphaned_now,
            -- A real start replaces a synthesised one; of two real ones the earlier stays.
            u.starts > 0 AND (s.start_missing OR u.started_at < s.started_at) AS begins_anew
        FROM unnest(settle_sessions.changes) AS u
        -- OFFSET 0 here: each by its key. Joined freely, a plan from when the table was empty goes through all of it for each change.
        CROSS JOIN LATERAL (
            SELECT b.ctid, b.started_at, b.started_at_reported, b.start_missing, b.ended_at, b.ended_at_reported, b.finish_reason, b.sealed,
                   b.shared, b.owner_journal, b.owner_writer, b.updated_at
            FROM public.billing_sessions AS b WHERE b.session_id = u.session_id OFFSET 0) AS s
        OFFSET 0
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
                WHEN k.orphaned_now THEN toll.last_row_at(k.session_id)
                -- A late event of an orphan moves its end.
                WHEN k.old_reason = 'orphaned' AND k.rows > 0 THEN greatest(k.old_ended, k.last_at)
                ELSE k.old_ended
            END AS end_at
        FROM known AS k
        OFFSET 0
    ), settled AS (
        SELECT
            t.*,
            -- Never before the start, however the clocks stood.
            CASE WHEN t.ends_now OR t.orphaned_now OR t.old_ended IS NOT NULL
                THEN greatest(t.end_at, t.begin_at) END AS final_end,
            -- Events of a sealed session are partly gone, so late ones are added to what is stored.
            t.sealed AND t.rows > 0 AS adds_up
        FROM timed AS t
        OFFSET 0
    ), written AS (
        UPDATE public.billing_sessions AS s
        SET started_at = n.begin_at,
            started_at_reported = CASE WHEN n.begins_anew THEN n.started_at_reported ELSE n.old_started_reported END,
            start_missing = n.start_missing AND n.starts = 0,
            duplicate_starts = s.duplicate_starts + greatest(n.starts - n.start_missing::integer, 0),
            -- What is there already wins: a duplicate start erases nothing. (Where nothing comes, it stays to the byte: else the update is not HOT.)
            metadata = CASE WHEN n.metadata IS NULL THEN s.metadata ELSE n.metadata || s.metadata END,
            raw_json = CASE WHEN n.raw_json IS NULL THEN s.raw_json ELSE n.raw_json || coalesce(s.raw_json, '{}') END,
            shared = n.shared_now,
            ended_at = n.final_end,
            ended_at_reported = CASE
                WHEN NOT n.ends_now THEN n.old_ended_reported
                WHEN n.final_end > n.ended_at THEN coalesce(n.ended_at_reported, n.ended_at)
                ELSE n.ended_at_reported END,
            finish_reason = CASE
                WHEN n.ends_now THEN n.finish_reason WHEN n.orphaned_now THEN 'orphaned' ELSE n.old_reason END,
            duration_secs = date_part('epoch', n.final_end - n.begin_at),
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
        WHERE s.ctid = n.place -- it is locked, so it stays there
        RETURNING s.session_id, s.ended_at IS NOT NULL AS ended,
            s.ended_at IS NOT NULL AND NOT n.from_memory AND NOT n.sealed AND (n.rows > 0 OR n.ends_now OR n.orphaned_now) AS to_sum,
            s.ended_at IS NOT NULL AND n.old_ended IS NULL AS closed,
            -- What rating goes by: it takes no notice of events here.
            s.ended_at IS DISTINCT FROM n.old_ended OR s.started_at <> n.old_started OR n.metadata IS NOT NULL AS to_rate
    ), queued AS (
        INSERT INTO toll.session_queue (journal_id, writer, session_id)
        SELECT settle_sessions.journal, settle_sessions.writer, w.session_id FROM written AS w WHERE w.to_rate
    ), closed AS (
        DELETE FROM toll.open_sessions AS o
        WHERE o.session_id = ANY (ARRAY(SELECT w.session_id FROM written AS w WHERE w.closed))
    )
    SELECT w.session_id, w.ended, w.to_sum FROM written AS w;
END $$;
REVOKE ALL ON FUNCTION toll.settle_sessions(uuid, integer, toll.session_change[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.settle_sessions(uuid, integer, toll.session_change[]) IS
    'For tolld, within a batch: writes what the batch does to these sessions, which the caller has locked FOR UPDATE before it stored their'
    ' events. ended: the session is over now. to_sum: its totals are not known from memory, so the caller must sum them in its next statement'
    ' (toll.recompute_totals)';

CREATE OR REPLACE FUNCTION toll.idle_sessions(
    journal uuid, writer integer, silent_secs integer, idle_before_us bigint, most bigint)
RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Idle is measured in receive time, which is on the batches.
    idle_before timestamptz := to_timestamp(idle_before_us / 1e6);
BEGIN
    RETURN QUERY
    SELECT s.session_id
    FROM toll.open_sessions AS o
    CROSS JOIN LATERAL (SELECT b.session_id, b.ended_at, b.owner_journal, b.owner_writer, b.updated_at FROM public.billing_sessions AS b
                        WHERE b.session_id = o.session_id OFFSET 0) AS s
    LEFT JOIN LATERAL (SELECT k.seen_at FROM toll.journals AS k
                       WHERE k.journal_id = s.owner_journal AND k.writer = s.owner_writer OFFSET 0) AS j ON true
    WHERE s.ended_at IS NULL
      AND ((s.owner_journal = idle_sessions.journal AND s.owner_writer = idle_sessions.writer)
           OR j.seen_at IS NULL OR j.seen_at < now() - make_interval(secs => silent_secs))
      AND s.updated_at < idle_before
      AND NOT toll.heard_since(s.session_id, idle_before)
    LIMIT most;
END $$;
REVOKE ALL ON FUNCTION toll.idle_sessions(uuid, integer, integer, bigint, bigint) FROM PUBLIC;
COMMENT ON FUNCTION toll.idle_sessions(uuid, integer, integer, bigint, bigint) IS
    'For tolld: live sessions of this journal and writer, or of one that was silent for so many seconds, of which nothing was received since'
    ' idle_before_us (microseconds since the epoch); at most so many. They are to be closed as orphaned';
