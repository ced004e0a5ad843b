-- What providers should have invoiced.

CREATE OR REPLACE VIEW public.provider_reconciliation AS
SELECT l.month, l.component, coalesce(l.provider, '') AS provider, coalesce(l.model, '') AS model,
       max(l.cost_currency) AS currency,
       sum(l.cost_original) AS cost,
       count(*) FILTER (WHERE l.counts) AS events,
       count(*) FILTER (WHERE l.counts AND l.event_cost IS NULL) AS unrated_events,
       coalesce(sum((l.quantities ->> 'input')::numeric) FILTER (WHERE l.counts), 0) AS input_tokens,
       coalesce(sum((l.quantities ->> 'cached_input')::numeric) FILTER (WHERE l.counts), 0) AS cached_input_tokens,
       coalesce(sum((l.quantities ->> 'cache_write')::numeric) FILTER (WHERE l.counts), 0) AS cache_write_tokens,
       coalesce(sum((l.quantities ->> 'audio_input')::numeric) FILTER (WHERE l.counts), 0) AS audio_input_tokens,
       coalesce(sum((l.quantities ->> 'cached_audio_input')::numeric) FILTER (WHERE l.counts), 0) AS cached_audio_input_tokens,
       coalesce(sum((l.quantities ->> 'output')::numeric) FILTER (WHERE l.counts), 0) AS output_tokens,
       coalesce(sum((l.quantities ->> 'audio_output')::numeric) FILTER (WHERE l.counts), 0) AS audio_output_tokens,
       coalesce(sum((l.quantities ->> 'tokens')::numeric) FILTER (WHERE l.counts), 0) AS tokens,
       coalesce(sum((l.quantities ->> 'characters')::numeric) FILTER (WHERE l.counts), 0) AS characters,
       coalesce(sum((l.quantities ->> 'audio_ms')::numeric) FILTER (WHERE l.counts), 0) AS audio_ms,
       coalesce(sum((l.quantities ->> 'quantity')::numeric) FILTER (WHERE l.counts), 0) AS quantity,
       coalesce(sum((l.quantities ->> 'billed_seconds')::numeric) FILTER (WHERE l.counts), 0) AS billed_seconds
FROM (SELECT date_trunc('month', c.occurred_at AT TIME ZONE 'UTC')::date AS month, c.component, c.provider, c.model, c.quantities,
             c.cost_original, c.cost_currency,
             sum(c.cost_original) OVER event AS event_cost,
             -- An event's later lines correct it: its quantities count once.
             row_number() OVER (event ORDER BY c.line_id) = 1 AS counts,
             first_value(c.cost_currency) OVER (event ORDER BY c.cost_currency IS NULL, c.line_id) AS event_currency
      FROM public.billing_charges c
      WHERE c.event_id IS NOT NULL AND c.kind <> 'overage'
      WINDOW event AS (PARTITION BY date_trunc('month', c.occurred_at AT TIME ZONE 'UTC')::date, c.event_id)) AS l
GROUP BY l.month, l.component, l.provider, l.model, coalesce(l.cost_currency, l.event_currency);
COMMENT ON VIEW public.provider_reconciliation IS
    'What each provider should have invoiced: quantities and cost of a month (UTC, by when the usage occurred), all corrections included, in the'
    ' currency of the provider''s prices. A row per currency. Sums of lines, which are rounded to nine decimals each. Ask for one'
    ' month at a time: all of its lines are read';
COMMENT ON COLUMN public.provider_reconciliation.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN public.provider_reconciliation.component IS 'llm, tts, stt, telephony or meter';
COMMENT ON COLUMN public.provider_reconciliation.provider IS 'The provider; empty: none was named';
COMMENT ON COLUMN public.provider_reconciliation.model IS 'The model, or the meter; empty: none was named';
COMMENT ON COLUMN public.provider_reconciliation.currency IS 'The currency of cost: that of the prices. NULL: nothing has a price';
COMMENT ON COLUMN public.provider_reconciliation.cost IS 'Cost of the events that have a price: see unrated_events. NULL: none has one';
COMMENT ON COLUMN public.provider_reconciliation.events IS 'Number of events: calls, syntheses, transcriptions, reports of usage';
COMMENT ON COLUMN public.provider_reconciliation.unrated_events IS 'Of these, those without a price: their cost is missing in cost';
COMMENT ON COLUMN public.provider_reconciliation.input_tokens IS 'Text input that was neither read from nor written to a cache';
COMMENT ON COLUMN public.provider_reconciliation.cached_input_tokens IS 'Text input read from the provider''s cache';
COMMENT ON COLUMN public.provider_reconciliation.cache_write_tokens IS 'Input written to the provider''s cache';
COMMENT ON COLUMN public.provider_reconciliation.audio_input_tokens IS 'Audio input not read from a cache';
COMMENT ON COLUMN public.provider_reconciliation.cached_audio_input_tokens IS 'Audio input read from the provider''s cache';
COMMENT ON COLUMN public.provider_reconciliation.output_tokens IS 'Text output, reasoning included';
COMMENT ON COLUMN public.provider_reconciliation.audio_output_tokens IS 'Audio output';
COMMENT ON COLUMN public.provider_reconciliation.tokens IS 'Tokens of syntheses and transcriptions that are billed by them';
COMMENT ON COLUMN public.provider_reconciliation.characters IS 'Characters synthesised';
COMMENT ON COLUMN public.provider_reconciliation.audio_ms IS 'Milliseconds of audio';
COMMENT ON COLUMN public.provider_reconciliation.quantity IS 'Quantity of meters, in their unit; of telephony, minutes as reported';
COMMENT ON COLUMN public.provider_reconciliation.billed_seconds IS 'Telephony: seconds after minimum and increment';
