-- Totals of sessions, recomputed from their stored events. The formula itself is the view toll.session_sums.

CREATE OR REPLACE FUNCTION toll.recompute_totals(session_ids uuid[])
RETURNS TABLE (
    session_id uuid, duration_secs float8, llm_input_tokens bigint, llm_output_tokens bigint, llm_calls bigint,
    tts_chars bigint, tts_calls bigint, stt_audio_ms float8, stt_calls bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    -- A snapshot from before the caller's locks would miss events: each statement must take its own.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'toll: recompute_totals needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    RETURN QUERY
    WITH wanted AS (
        SELECT s.session_id, s.ctid AS place,
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
        WHERE s.ctid = w.place AND s.ended_at IS NOT NULL -- it is locked, so it stays there
    )
    SELECT w.session_id, w.duration_secs, w.llm_input_tokens, w.llm_output_tokens, w.llm_calls, w.tts_chars,
           w.tts_calls, w.stt_audio_ms, w.stt_calls
    FROM wanted w;
END $$;
REVOKE ALL ON FUNCTION toll.recompute_totals(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.recompute_totals(uuid[]) IS
    'Sums the stored events of these sessions, and writes totals and duration of those that have ended. Returns the'
    ' sums of all of them, live ones included; sealed and unknown sessions are left out. Contract: one READ'
    ' COMMITTED transaction in which the caller has, in an earlier statement, locked the sessions'' rows FOR UPDATE,'
    ' and has stored its events and the ends. It does not touch revision';
