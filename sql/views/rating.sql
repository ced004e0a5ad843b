-- Events as rating takes them. Each event's session and account are found by their keys, whatever the planner takes the number of events to be (OFFSET 0).

CREATE OR REPLACE VIEW toll.named_sessions AS
SELECT
    s.session_id, s.started_at, s.ended_at, toll.named_in(s.metadata, r.account_keys) AS account_name,
    toll.named_in(s.metadata, r.business_keys) AS business_id, toll.name_in(s.metadata, 'enterprise_id') AS enterprise_id,
    toll.name_in(s.metadata, 'workflow_name') AS workflow_name, toll.name_in(s.metadata, 'call_id') AS call_id,
    CASE WHEN s.metadata ->> 'hold_id' ~ '^[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}$'
         THEN (s.metadata ->> 'hold_id')::uuid END AS hold_id,
    CASE WHEN s.metadata ->> 'channel' IN ('voice', 'text') THEN s.metadata ->> 'channel' ELSE r.default_channel END AS channel
FROM public.billing_sessions AS s
CROSS JOIN toll.rating_settings AS r;
COMMENT ON VIEW toll.named_sessions IS 'What sessions'' metadata say that matters to rating: see toll.rated_sessions';
COMMENT ON COLUMN toll.named_sessions.session_id IS 'The session';
COMMENT ON COLUMN toll.named_sessions.started_at IS 'When it began';
COMMENT ON COLUMN toll.named_sessions.ended_at IS 'When it ended; NULL: it is live';
COMMENT ON COLUMN toll.named_sessions.account_name IS 'The account: first present key of rating_settings.account_keys';
COMMENT ON COLUMN toll.named_sessions.business_id IS 'The business: first present key of rating_settings.business_keys';
COMMENT ON COLUMN toll.named_sessions.enterprise_id IS 'enterprise_id';
COMMENT ON COLUMN toll.named_sessions.workflow_name IS 'workflow_name';
COMMENT ON COLUMN toll.named_sessions.call_id IS 'call_id';
COMMENT ON COLUMN toll.named_sessions.hold_id IS 'hold_id, if it is a UUID';
COMMENT ON COLUMN toll.named_sessions.channel IS 'channel, if it is voice or text; else the default';

CREATE OR REPLACE VIEW toll.rating_events AS
SELECT
    e.id, e.session_id, e.occurred_at, e.batch_id, e.ttfb_ms, e.duration_ms,
    ROW(
        e.id, e.occurred_at, e.session_id, a.account_id, coalesce(CASE WHEN e.session_id IS NULL THEN a.account_id ELSE s.business_id END, ''),
        CASE WHEN e.session_id IS NULL THEN a.charge_by ELSE s.charge_by END, a.closed_until,
        k.component, coalesce(e.provider, ''), coalesce(e.model, ''),
        CASE e.event_type WHEN 'llm' THEN coalesce(s.channel, (SELECT d.default_channel FROM toll.rating_settings AS d))
                          WHEN 'tts' THEN coalesce(e.voice, '') WHEN 'stt' THEN coalesce(e.language, '') ELSE '' END,
        CASE WHEN e.event_type = 'usage' THEN coalesce(e.meter, '') ELSE '' END,
        -- The first question is asked once in a query.
        CASE WHEN (SELECT EXISTS (SELECT FROM public.pricing_config AS p WHERE p.scope_kind = 'account' AND p.withdrawn_at IS NULL))
                  AND EXISTS (SELECT FROM public.pricing_config AS p
                          WHERE p.scope_kind = 'account' AND p.scope_id = a.account_id AND p.component = k.component
                            AND p.withdrawn_at IS NULL OFFSET 0) THEN a.account_id ELSE '' END,
        coalesce(CASE WHEN e.session_id IS NULL THEN a.plan_id ELSE s.plan_id END, ''),
        coalesce(CASE WHEN e.session_id IS NULL THEN a.currency ELSE s.currency END,
                 (SELECT d.default_currency FROM toll.rating_settings AS d)),
        a.markup_percent,
        CASE e.event_type
            WHEN 'llm' THEN (n.text_input <> 0)::integer + (n.cached_input <> 0)::integer * 2 + (n.cache_write <> 0)::integer * 4
                + (n.audio_input <> 0)::integer * 8 + (n.cached_audio <> 0)::integer * 16 + (n.text_output <> 0)::integer * 32
                + (n.audio_output <> 0)::integer * 64
            WHEN 'usage' THEN (e.quantity IS NOT NULL)::integer
            ELSE (e.char_count IS NOT NULL)::integer + (e.audio_duration_ms IS NOT NULL)::integer * 2
                + (coalesce(e.input_tokens, e.output_tokens) IS NOT NULL)::integer * 4 END,
        n.text_input, n.cached_input, n.cache_write, n.audio_input, n.cached_audio, n.text_output, n.audio_output,
        coalesce(e.input_tokens, 0), coalesce(e.cached_input_tokens, 0), coalesce(e.output_tokens, 0), coalesce(e.char_count, 0),
        -- Stored to the microsecond.
        coalesce(round(e.audio_duration_ms * 1000)::bigint, 0), e.quantity)::toll.rating_input AS input,
    e.account, e.event_type, e.provider, e.model, e.meter
FROM public.billing_events AS e
LEFT JOIN LATERAL (SELECT r.account_id, r.business_id, r.charge_by, r.channel, r.plan_id, r.currency
                   FROM toll.rated_sessions AS r WHERE r.session_id = e.session_id OFFSET 0) AS s ON true
LEFT JOIN LATERAL (SELECT c.account_id, c.charge_by, c.closed_until, c.plan_id, c.currency, c.markup_percent
                   FROM public.accounts AS c
                   WHERE c.account_id = CASE WHEN e.session_id IS NULL THEN e.account ELSE s.account_id END OFFSET 0) AS a ON true
CROSS JOIN LATERAL (SELECT CASE WHEN e.event_type <> 'usage' THEN e.event_type
                                WHEN e.meter IN ('telephony_inbound', 'telephony_outbound') THEN 'telephony' ELSE 'meter' END AS component) AS k
-- Cached audio is both cached and audio: the subsets that have no price of their own in common are what is left without it.
CROSS JOIN LATERAL (
    SELECT coalesce(e.input_tokens, 0) - coalesce(e.cached_input_tokens, 0) - coalesce(e.cache_write_tokens, 0)
               - coalesce(e.audio_input_tokens, 0) + coalesce(e.cached_audio_tokens, 0) AS text_input,
           coalesce(e.cached_input_tokens, 0) - coalesce(e.cached_audio_tokens, 0) AS cached_input,
           coalesce(e.cache_write_tokens, 0) AS cache_write,
           coalesce(e.audio_input_tokens, 0) - coalesce(e.cached_audio_tokens, 0) AS audio_input,
           coalesce(e.cached_audio_tokens, 0) AS cached_audio,
           coalesce(e.output_tokens, 0) - coalesce(e.audio_output_tokens, 0) AS text_output,
           coalesce(e.audio_output_tokens, 0) AS audio_output) AS n;
COMMENT ON VIEW toll.rating_events IS 'Stored events with what decides their prices: the input of toll.price_events';
COMMENT ON COLUMN toll.rating_events.id IS 'Number of the event';
COMMENT ON COLUMN toll.rating_events.session_id IS 'Its session';
COMMENT ON COLUMN toll.rating_events.occurred_at IS 'When it occurred';
COMMENT ON COLUMN toll.rating_events.batch_id IS 'The batch that stored it';
COMMENT ON COLUMN toll.rating_events.ttfb_ms IS 'Milliseconds until its first byte';
COMMENT ON COLUMN toll.rating_events.duration_ms IS 'Milliseconds it took';
COMMENT ON COLUMN toll.rating_events.input IS 'What decides its prices';
COMMENT ON COLUMN toll.rating_events.account IS 'The account that it names itself, where it has no session';
COMMENT ON COLUMN toll.rating_events.event_type IS 'llm, tts, stt or usage';
COMMENT ON COLUMN toll.rating_events.provider IS 'Who served it';
COMMENT ON COLUMN toll.rating_events.model IS 'The provider''s model';
COMMENT ON COLUMN toll.rating_events.meter IS 'What it counts, where it is of type usage';
