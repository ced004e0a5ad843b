-- What was used, by provider and model. Money is not here.

CREATE OR REPLACE VIEW public.model_usage AS
SELECT event_type, provider, model, meter,
       count(*) AS calls,
       count(*) FILTER (WHERE estimated) AS estimated_calls,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(cached_input_tokens), 0)::bigint AS cached_input_tokens,
       coalesce(sum(char_count), 0)::bigint AS chars,
       (coalesce(sum(round(audio_duration_ms * 1000)::bigint), 0) / 1000.0)::float8 AS audio_ms,
       round(coalesce(sum(round(audio_duration_ms * 1000)::bigint), 0) / 60000000.0, 3) AS audio_minutes,
       sum(quantity) AS quantity,
       min(occurred_at) AS first_at,
       max(occurred_at) AS last_at
FROM public.billing_events
GROUP BY event_type, provider, model, meter;
COMMENT ON VIEW public.model_usage IS
    'What was used per kind of event, provider, model and meter, over all stored events';
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

CREATE OR REPLACE VIEW public.model_usage_daily AS
SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, event_type, provider, model, meter,
       count(*) AS calls,
       count(*) FILTER (WHERE estimated) AS estimated_calls,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(cached_input_tokens), 0)::bigint AS cached_input_tokens,
       coalesce(sum(char_count), 0)::bigint AS chars,
       (coalesce(sum(round(audio_duration_ms * 1000)::bigint), 0) / 1000.0)::float8 AS audio_ms,
       round(coalesce(sum(round(audio_duration_ms * 1000)::bigint), 0) / 60000000.0, 3) AS audio_minutes,
       sum(quantity) AS quantity,
       min(occurred_at) AS first_at,
       max(occurred_at) AS last_at
FROM public.billing_events
GROUP BY day, event_type, provider, model, meter;
COMMENT ON VIEW public.model_usage_daily IS
    'What was used per kind of event, provider, model and meter and per day of UTC. For a few days of a large'
    ' table, say so by occurred_at in a query of your own';
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
