-- Sessions with their totals. toll.session_sums is the one place that says what a total is.

CREATE OR REPLACE VIEW toll.session_sums AS
SELECT session_id,
       coalesce(sum(input_tokens) FILTER (WHERE event_type = 'llm'), 0)::bigint AS llm_input_tokens,
       coalesce(sum(output_tokens) FILTER (WHERE event_type = 'llm'), 0)::bigint AS llm_output_tokens,
       count(*) FILTER (WHERE event_type = 'llm') AS llm_calls,
       coalesce(sum(char_count) FILTER (WHERE event_type = 'tts'), 0)::bigint AS tts_chars,
       count(*) FILTER (WHERE event_type = 'tts') AS tts_calls,
       (coalesce(sum(round(audio_duration_ms * 1000)::bigint) FILTER (WHERE event_type = 'stt'), 0)
        / 1000.0)::float8 AS stt_audio_ms,
       count(*) FILTER (WHERE event_type = 'stt') AS stt_calls
FROM public.billing_events
WHERE session_id IS NOT NULL AND event_type IN ('llm', 'tts', 'stt')
GROUP BY session_id;
COMMENT ON VIEW toll.session_sums IS
    'Totals of each session that has llm, tts or stt events, summed from the stored events: integers, whole'
    ' microseconds of audio';
COMMENT ON COLUMN toll.session_sums.session_id IS 'The call';
COMMENT ON COLUMN toll.session_sums.llm_input_tokens IS 'Sum of input_tokens of its llm events';
COMMENT ON COLUMN toll.session_sums.llm_output_tokens IS 'Sum of output_tokens of its llm events';
COMMENT ON COLUMN toll.session_sums.llm_calls IS 'Number of its llm events';
COMMENT ON COLUMN toll.session_sums.tts_chars IS 'Sum of char_count of its tts events';
COMMENT ON COLUMN toll.session_sums.tts_calls IS 'Number of its tts events';
COMMENT ON COLUMN toll.session_sums.stt_audio_ms IS 'Milliseconds of audio of its stt events';
COMMENT ON COLUMN toll.session_sums.stt_calls IS 'Number of its stt events';

-- Live sessions with their totals. OFFSET 0 keeps the planner from summing all events there are instead of each live session's.
CREATE OR REPLACE VIEW toll.live_totals AS
SELECT s.session_id, s.started_at, active.at AS last_activity_at, extract(epoch FROM active.at - s.started_at)::float8 AS duration_secs,
       CASE WHEN s.sealed THEN s.llm_input_tokens ELSE coalesce(t.llm_input_tokens, 0) END AS llm_input_tokens,
       CASE WHEN s.sealed THEN s.llm_output_tokens ELSE coalesce(t.llm_output_tokens, 0) END AS llm_output_tokens,
       CASE WHEN s.sealed THEN s.llm_calls ELSE coalesce(t.llm_calls, 0) END AS llm_calls,
       CASE WHEN s.sealed THEN s.tts_chars ELSE coalesce(t.tts_chars, 0) END AS tts_chars,
       CASE WHEN s.sealed THEN s.tts_calls ELSE coalesce(t.tts_calls, 0) END AS tts_calls,
       CASE WHEN s.sealed THEN s.stt_audio_ms ELSE coalesce(t.stt_audio_ms, 0) END AS stt_audio_ms,
       CASE WHEN s.sealed THEN s.stt_calls ELSE coalesce(t.stt_calls, 0) END AS stt_calls,
       s.metadata
FROM public.billing_sessions s
CROSS JOIN LATERAL (
    SELECT greatest(s.started_at,
                    (SELECT max(e.occurred_at) FROM public.billing_events e WHERE e.session_id = s.session_id),
                    (SELECT max(r.occurred_at) FROM public.session_transcripts r
                     WHERE r.session_id = s.session_id)) AS at
    OFFSET 0) AS active
LEFT JOIN LATERAL (SELECT * FROM toll.session_sums u WHERE u.session_id = s.session_id OFFSET 0) t ON true
WHERE s.ended_at IS NULL;
COMMENT ON VIEW toll.live_totals IS 'What public.session_totals and public.live_sessions say of live calls: see there';
COMMENT ON COLUMN toll.live_totals.session_id IS 'The call';
COMMENT ON COLUMN toll.live_totals.started_at IS 'When it began';
COMMENT ON COLUMN toll.live_totals.last_activity_at IS 'When its latest event or transcript turn occurred';
COMMENT ON COLUMN toll.live_totals.duration_secs IS 'Seconds from its start to its last activity';
COMMENT ON COLUMN toll.live_totals.llm_input_tokens IS 'Sum of input_tokens of its llm events';
COMMENT ON COLUMN toll.live_totals.llm_output_tokens IS 'Sum of output_tokens of its llm events';
COMMENT ON COLUMN toll.live_totals.llm_calls IS 'Number of its llm events';
COMMENT ON COLUMN toll.live_totals.tts_chars IS 'Sum of char_count of its tts events';
COMMENT ON COLUMN toll.live_totals.tts_calls IS 'Number of its tts events';
COMMENT ON COLUMN toll.live_totals.stt_audio_ms IS 'Milliseconds of audio of its stt events';
COMMENT ON COLUMN toll.live_totals.stt_calls IS 'Number of its stt events';
COMMENT ON COLUMN toll.live_totals.metadata IS 'What the worker said about the call';

-- Two branches, so that only live sessions pay for a sum; conditions on session_id or metadata reach both.
CREATE OR REPLACE VIEW public.session_totals AS
SELECT session_id, false AS live, started_at, ended_at, ended_at AS last_activity_at, duration_secs, finish_reason,
       llm_input_tokens, llm_output_tokens, llm_calls::bigint AS llm_calls, tts_chars, tts_calls::bigint AS tts_calls,
       stt_audio_ms, stt_calls::bigint AS stt_calls, metadata
FROM public.billing_sessions
WHERE ended_at IS NOT NULL
UNION ALL
SELECT session_id, true, started_at, NULL, last_activity_at, duration_secs, NULL, llm_input_tokens, llm_output_tokens, llm_calls,
       tts_chars, tts_calls, stt_audio_ms, stt_calls, metadata
FROM toll.live_totals;
COMMENT ON VIEW public.session_totals IS
    'Every call with its totals so far: of ended calls the stored totals, of live ones what their stored events add'
    ' up to now';
COMMENT ON COLUMN public.session_totals.session_id IS 'The call';
COMMENT ON COLUMN public.session_totals.live IS 'True: the call has not ended';
COMMENT ON COLUMN public.session_totals.started_at IS 'When it began';
COMMENT ON COLUMN public.session_totals.ended_at IS 'When it ended; NULL while it is live';
COMMENT ON COLUMN public.session_totals.last_activity_at IS
    'Of a live call, when its latest event or transcript turn occurred; else ended_at';
COMMENT ON COLUMN public.session_totals.duration_secs IS
    'Seconds from its start to its end, or to its last activity while it is live';
COMMENT ON COLUMN public.session_totals.finish_reason IS 'How it ended; NULL while it is live';
COMMENT ON COLUMN public.session_totals.llm_input_tokens IS 'Sum of input_tokens of its llm events';
COMMENT ON COLUMN public.session_totals.llm_output_tokens IS 'Sum of output_tokens of its llm events';
COMMENT ON COLUMN public.session_totals.llm_calls IS 'Number of its llm events';
COMMENT ON COLUMN public.session_totals.tts_chars IS 'Sum of char_count of its tts events';
COMMENT ON COLUMN public.session_totals.tts_calls IS 'Number of its tts events';
COMMENT ON COLUMN public.session_totals.stt_audio_ms IS 'Milliseconds of audio of its stt events';
COMMENT ON COLUMN public.session_totals.stt_calls IS 'Number of its stt events';
COMMENT ON COLUMN public.session_totals.metadata IS 'What the worker said about the call';

CREATE OR REPLACE VIEW public.live_sessions AS
SELECT session_id, started_at, last_activity_at, duration_secs, llm_input_tokens, llm_output_tokens, llm_calls,
       tts_chars, tts_calls, stt_audio_ms, stt_calls, metadata
FROM toll.live_totals
WHERE session_id IN (SELECT o.session_id FROM toll.open_sessions o);
COMMENT ON VIEW public.live_sessions IS
    'The calls that have not ended, with their totals so far (session_totals WHERE live)';
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
