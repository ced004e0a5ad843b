-- What people read of money, quotas and providers. Figures are sums of lines (billing_charges) and of the roll-ups kept with them: they are never
-- rounded here, and NULL where a part of them is not known.

-- --- calls and messages ---

-- Only lines of the session's account as it is now: what was written before the account was known has been reversed.
CREATE OR REPLACE VIEW public.call_cost_breakdown AS
SELECT coalesce(s.call_id, s.session_id::text) AS call_log_id, s.session_id, s.call_id, s.account_id, s.business_id, s.started_at, s.ended_at,
       l.currency, c.total_cost, c.user_charged_cost, c.user_charged_cost - c.total_cost AS profit_margin,
       CASE WHEN NOT u.stt THEN l.stt_cost END AS stt_cost, l.stt_minutes, l.stt_provider,
       CASE WHEN NOT u.llm THEN l.llm_cost END AS llm_cost, l.llm_input_tokens, l.llm_output_tokens, l.llm_provider,
       CASE WHEN NOT u.tts THEN l.tts_cost END AS tts_cost, l.tts_characters, l.tts_minutes, l.tts_provider,
       CASE WHEN NOT u.inbound THEN l.inbound_cost END AS telephony_inbound_cost, l.inbound_minutes AS telephony_inbound_minutes,
       CASE WHEN NOT u.outbound THEN l.outbound_cost END AS telephony_outbound_cost, l.outbound_minutes AS telephony_outbound_minutes,
       l.telephony_provider, CASE WHEN NOT u.other THEN l.other_cost END AS other_cost, l.waived,
       u.costs AS unrated_costs, u.charges AS unrated_charges
FROM toll.rated_sessions s
CROSS JOIN LATERAL (
    SELECT max(b.currency) AS currency, coalesce(sum(b.cost), 0) AS cost, coalesce(sum(b.charge), 0) AS charge,
           coalesce(sum(b.waived), 0) AS waived,
           coalesce(sum(b.cost) FILTER (WHERE b.component = 'stt'), 0) AS stt_cost,
           round(coalesce(sum((b.quantities ->> 'audio_ms')::numeric) FILTER (WHERE b.component = 'stt' AND b.kind = 'usage'), 0)
                 / 60000, 9) AS stt_minutes,
           string_agg(DISTINCT b.provider, ', ') FILTER (WHERE b.component = 'stt') AS stt_provider,
           coalesce(sum(b.cost) FILTER (WHERE b.component = 'llm'), 0) AS llm_cost,
           coalesce(sum(toll.input_tokens(b.quantities)) FILTER (WHERE b.component = 'llm' AND b.kind = 'usage'), 0)::bigint
               AS llm_input_tokens,
           coalesce(sum(toll.output_tokens(b.quantities)) FILTER (WHERE b.component = 'llm' AND b.kind = 'usage'), 0)::bigint
               AS llm_output_tokens,
           string_agg(DISTINCT b.provider, ', ') FILTER (WHERE b.component = 'llm') AS llm_provider,
           coalesce(sum(b.cost) FILTER (WHERE b.component = 'tts'), 0) AS tts_cost,
           coalesce(sum((b.quantities ->> 'characters')::bigint) FILTER (WHERE b.component = 'tts' AND b.kind = 'usage'), 0)::bigint
               AS tts_characters,
           round(coalesce(sum((b.quantities ->> 'audio_ms')::numeric) FILTER (WHERE b.component = 'tts' AND b.kind = 'usage'), 0)
                 / 60000, 9) AS tts_minutes,
           string_agg(DISTINCT b.provider, ', ') FILTER (WHERE b.component = 'tts') AS tts_provider,
           coalesce(sum(b.cost) FILTER (WHERE b.component = 'telephony' AND b.model = 'telephony_inbound'), 0) AS inbound_cost,
           coalesce(sum((b.quantities ->> 'quantity')::numeric)
                    FILTER (WHERE b.component = 'telephony' AND b.model = 'telephony_inbound' AND b.kind = 'usage'), 0) AS inbound_minutes,
           coalesce(sum(b.cost) FILTER (WHERE b.component = 'telephony' AND b.model = 'telephony_outbound'), 0) AS outbound_cost,
           coalesce(sum((b.quantities ->> 'quantity')::numeric)
                    FILTER (WHERE b.component = 'telephony' AND b.model = 'telephony_outbound' AND b.kind = 'usage'), 0) AS outbound_minutes,
           string_agg(DISTINCT b.provider, ', ') FILTER (WHERE b.component = 'telephony') AS telephony_provider,
           coalesce(sum(b.cost) FILTER (WHERE b.component NOT IN ('stt', 'llm', 'tts', 'telephony')), 0) AS other_cost
    FROM public.billing_charges b
    WHERE b.session_id = s.session_id AND b.account_id IS NOT DISTINCT FROM s.account_id) AS l
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE m.side = 'cost') AS costs, count(*) FILTER (WHERE m.side = 'charge') AS charges,
           count(*) FILTER (WHERE m.side = 'cost' AND m.component = 'stt') > 0 AS stt,
           count(*) FILTER (WHERE m.side = 'cost' AND m.component = 'llm') > 0 AS llm,
           count(*) FILTER (WHERE m.side = 'cost' AND m.component = 'tts') > 0 AS tts,
           count(*) FILTER (WHERE m.side = 'cost' AND m.component = 'telephony' AND m.model = 'telephony_inbound') > 0 AS inbound,
           count(*) FILTER (WHERE m.side = 'cost' AND m.component = 'telephony' AND m.model = 'telephony_outbound') > 0 AS outbound,
           count(*) FILTER (WHERE m.side = 'cost' AND m.component NOT IN ('stt', 'llm', 'tts', 'telephony')) > 0 AS other
    FROM toll.unrated m
    WHERE m.session_id = s.session_id) AS u
CROSS JOIN LATERAL (
    SELECT CASE WHEN u.costs = 0 THEN l.cost END AS total_cost,
           CASE WHEN s.account_id IS NULL OR u.charges > 0 OR (s.billed_minutes IS NOT NULL AND s.billed_amount IS NULL)
                     OR (s.ended_at IS NULL AND s.charge_by IN ('minutes', 'prepaid_minutes')) THEN NULL
                ELSE l.charge - l.waived END AS user_charged_cost) AS c;
COMMENT ON VIEW public.call_cost_breakdown IS
    'What each call cost and what was charged for it, as far as rating has come: sums of its lines in the account''s currency, exact. A call is'
    ' a session. Quick for one call_log_id or session_id';
COMMENT ON COLUMN public.call_cost_breakdown.call_log_id IS 'Metadata''s call_id, or else the session''s id. Several sessions may be one call';
COMMENT ON COLUMN public.call_cost_breakdown.session_id IS 'The session';
COMMENT ON COLUMN public.call_cost_breakdown.call_id IS 'Metadata''s call_id';
COMMENT ON COLUMN public.call_cost_breakdown.account_id IS 'Its account; NULL: not known yet (unresolved_sessions)';
COMMENT ON COLUMN public.call_cost_breakdown.business_id IS 'The business that metadata name (business_id or tenant_id)';
COMMENT ON COLUMN public.call_cost_breakdown.started_at IS 'When it began';
COMMENT ON COLUMN public.call_cost_breakdown.ended_at IS 'When it ended; NULL: it is live';
COMMENT ON COLUMN public.call_cost_breakdown.currency IS 'Of all amounts; NULL: it has no lines';
COMMENT ON COLUMN public.call_cost_breakdown.total_cost IS 'What providers take for it; NULL: part of it has no price yet (unrated_costs)';
COMMENT ON COLUMN public.call_cost_breakdown.user_charged_cost IS
    'What the customer is charged for it, without what a trial waives. NULL: not known: no account, no price, or charged by the minute and not'
    ' over yet';
COMMENT ON COLUMN public.call_cost_breakdown.profit_margin IS 'user_charged_cost - total_cost; NULL where one of them is';
COMMENT ON COLUMN public.call_cost_breakdown.stt_cost IS 'Cost of speech recognition; NULL: part of it has no price yet';
COMMENT ON COLUMN public.call_cost_breakdown.stt_minutes IS 'Minutes of audio recognised, to nine decimals';
COMMENT ON COLUMN public.call_cost_breakdown.stt_provider IS 'Its providers';
COMMENT ON COLUMN public.call_cost_breakdown.llm_cost IS 'Cost of language models; NULL: part of it has no price yet';
COMMENT ON COLUMN public.call_cost_breakdown.llm_input_tokens IS 'Input tokens, gross';
COMMENT ON COLUMN public.call_cost_breakdown.llm_output_tokens IS 'Output tokens, gross';
COMMENT ON COLUMN public.call_cost_breakdown.llm_provider IS 'Their providers';
COMMENT ON COLUMN public.call_cost_breakdown.tts_cost IS 'Cost of speech synthesis; NULL: part of it has no price yet';
COMMENT ON COLUMN public.call_cost_breakdown.tts_characters IS 'Characters synthesised';
COMMENT ON COLUMN public.call_cost_breakdown.tts_minutes IS 'Minutes of audio synthesised, as far as reported, to nine decimals';
COMMENT ON COLUMN public.call_cost_breakdown.tts_provider IS 'Its providers';
COMMENT ON COLUMN public.call_cost_breakdown.telephony_inbound_cost IS 'Cost of inbound telephony; NULL: part of it has no price yet';
COMMENT ON COLUMN public.call_cost_breakdown.telephony_inbound_minutes IS 'Its minutes, as reported';
COMMENT ON COLUMN public.call_cost_breakdown.telephony_outbound_cost IS 'Cost of outbound telephony; NULL: part of it has no price yet';
COMMENT ON COLUMN public.call_cost_breakdown.telephony_outbound_minutes IS 'Its minutes, as reported';
COMMENT ON COLUMN public.call_cost_breakdown.telephony_provider IS 'The carriers';
COMMENT ON COLUMN public.call_cost_breakdown.other_cost IS 'Cost of all other usage in the call; NULL: part of it has no price yet';
COMMENT ON COLUMN public.call_cost_breakdown.waived IS 'What a trial waived of the charges';
COMMENT ON COLUMN public.call_cost_breakdown.unrated_costs IS 'Events whose cost is not known (unrated_events)';
COMMENT ON COLUMN public.call_cost_breakdown.unrated_charges IS 'Events whose charge is not known (unrated_events)';

-- The tokens of a turn go to its first message, so that messages add up.
CREATE OR REPLACE VIEW public.message_cost_breakdown AS
SELECT m.event_id AS message_id, m.session_id, coalesce(s.call_id, s.session_id::text) AS call_log_id, e.turn_id, m.account_id,
       coalesce(s.business_id, m.account_id) AS business_id, m.occurred_at, (m.quantities ->> 'quantity')::numeric AS messages, m.provider,
       m.currency, c.llm_cost + own.cost AS total_cost, c.llm_charge + own.charge AS user_charged_cost,
       c.llm_charge + own.charge - c.llm_cost - own.cost AS profit_margin, own.cost AS message_cost, c.llm_cost, t.llm_input_tokens,
       t.llm_output_tokens, t.llm_provider
FROM public.billing_charges m
LEFT JOIN toll.rated_sessions s ON s.session_id = m.session_id
LEFT JOIN public.billing_events e ON e.id = m.event_id AND e.occurred_at = m.occurred_at
CROSS JOIN LATERAL (
    SELECT CASE WHEN NOT EXISTS (SELECT FROM toll.unrated n WHERE n.event_id = m.event_id AND n.side = 'cost') THEN sum(b.cost) END AS cost,
           CASE WHEN NOT EXISTS (SELECT FROM toll.unrated n WHERE n.event_id = m.event_id AND n.side = 'charge')
                THEN sum(b.charge) - sum(b.waived) END AS charge
    FROM public.billing_charges b
    WHERE b.event_id = m.event_id AND (b.session_id = m.session_id OR m.session_id IS NULL)
      AND b.account_id IS NOT DISTINCT FROM m.account_id) AS own
CROSS JOIN LATERAL (
    SELECT coalesce(sum(b.cost), 0) AS cost, coalesce(sum(b.charge) - sum(b.waived), 0) AS charge,
           coalesce(sum(toll.input_tokens(b.quantities)) FILTER (WHERE b.kind = 'usage'), 0)::bigint AS llm_input_tokens,
           coalesce(sum(toll.output_tokens(b.quantities)) FILTER (WHERE b.kind = 'usage'), 0)::bigint AS llm_output_tokens,
           string_agg(DISTINCT b.provider, ', ') AS llm_provider,
           coalesce(bool_or(EXISTS (SELECT FROM toll.unrated n WHERE n.event_id = a.id AND n.side = 'cost')), false) AS no_cost,
           coalesce(bool_or(EXISTS (SELECT FROM toll.unrated n WHERE n.event_id = a.id AND n.side = 'charge')), false) AS no_charge
    FROM public.billing_events a
    JOIN public.billing_charges b ON b.session_id = a.session_id AND b.event_id = a.id AND b.account_id IS NOT DISTINCT FROM m.account_id
    WHERE a.session_id = m.session_id AND a.turn_id = e.turn_id AND a.event_type = 'llm'
      AND NOT EXISTS (SELECT FROM public.billing_events p
                      WHERE p.session_id = e.session_id AND p.turn_id = e.turn_id AND p.meter = 'message' AND p.id < e.id)) AS t
CROSS JOIN LATERAL (
    SELECT CASE WHEN e.id IS NOT NULL AND NOT t.no_cost THEN t.cost END AS llm_cost,
           CASE WHEN e.id IS NOT NULL AND NOT t.no_charge AND m.account_id IS NOT NULL THEN t.charge END AS llm_charge) AS c
WHERE m.kind = 'usage' AND m.component = 'meter' AND m.model = 'message' AND m.quantities <> '{}'
  AND (m.session_id IS NULL OR m.account_id IS NOT DISTINCT FROM s.account_id);
COMMENT ON VIEW public.message_cost_breakdown IS
    'What each message (usage of meter message) cost and what was charged for it: the meter''s own price and the llm events of its turn, which'
    ' go to the turn''s first message. Sums of lines, exact. Quick for a session_id, or for an hour or a day by occurred_at';
COMMENT ON COLUMN public.message_cost_breakdown.message_id IS 'The message: billing_events.id';
COMMENT ON COLUMN public.message_cost_breakdown.session_id IS 'Its session; NULL: outside any';
COMMENT ON COLUMN public.message_cost_breakdown.call_log_id IS 'The session''s name in call_cost_breakdown';
COMMENT ON COLUMN public.message_cost_breakdown.turn_id IS 'The turn of the conversation';
COMMENT ON COLUMN public.message_cost_breakdown.account_id IS 'Its account; NULL: not known yet';
COMMENT ON COLUMN public.message_cost_breakdown.business_id IS 'The business; of a message outside any session, its account';
COMMENT ON COLUMN public.message_cost_breakdown.occurred_at IS 'When it occurred';
COMMENT ON COLUMN public.message_cost_breakdown.messages IS 'How many messages it was reported as';
COMMENT ON COLUMN public.message_cost_breakdown.provider IS 'Who carried it';
COMMENT ON COLUMN public.message_cost_breakdown.currency IS 'Of all amounts';
COMMENT ON COLUMN public.message_cost_breakdown.total_cost IS 'message_cost + llm_cost; NULL: one of them is not known';
COMMENT ON COLUMN public.message_cost_breakdown.user_charged_cost IS
    'What the customer is charged for it and its turn''s llm events, without what a trial waives; NULL: not known';
COMMENT ON COLUMN public.message_cost_breakdown.profit_margin IS 'user_charged_cost - total_cost; NULL where one of them is';
COMMENT ON COLUMN public.message_cost_breakdown.message_cost IS 'Cost by the meter''s own price; NULL: it has none';
COMMENT ON COLUMN public.message_cost_breakdown.llm_cost IS
    'Cost of the llm events of its turn; NULL: part of it has no price, or the event is no longer stored';
COMMENT ON COLUMN public.message_cost_breakdown.llm_input_tokens IS 'Their input tokens, gross';
COMMENT ON COLUMN public.message_cost_breakdown.llm_output_tokens IS 'Their output tokens, gross';
COMMENT ON COLUMN public.message_cost_breakdown.llm_provider IS 'Their providers';

-- --- what is not priced, or not charged to anybody ---

CREATE OR REPLACE VIEW public.unrated_events AS
SELECT event_id, side, missing, occurred_at, session_id, account_id, component, provider, model, variant, since
FROM toll.unrated;
COMMENT ON VIEW public.unrated_events IS
    'Events of which cost or charge is not known, and why. Where a price was missing: set_price(), then toll.rate_unrated()';
COMMENT ON COLUMN public.unrated_events.event_id IS 'The event (billing_events.id)';
COMMENT ON COLUMN public.unrated_events.side IS 'What is not known: cost or charge';
COMMENT ON COLUMN public.unrated_events.missing IS 'What is missing: a price, a rate, a quantity';
COMMENT ON COLUMN public.unrated_events.occurred_at IS 'When it occurred';
COMMENT ON COLUMN public.unrated_events.session_id IS 'Its session';
COMMENT ON COLUMN public.unrated_events.account_id IS 'Its account, if that is known';
COMMENT ON COLUMN public.unrated_events.component IS 'llm, tts, stt, telephony or meter';
COMMENT ON COLUMN public.unrated_events.provider IS 'The provider';
COMMENT ON COLUMN public.unrated_events.model IS 'The model, or the meter';
COMMENT ON COLUMN public.unrated_events.variant IS 'Voice, language or channel';
COMMENT ON COLUMN public.unrated_events.since IS 'When rating first came to it';

CREATE OR REPLACE VIEW public.unrated_sessions AS
SELECT session_id, account_id, tariff_id, currency, ended_at, duration_ms * 0.001 AS duration_sec, billed_minutes
FROM toll.rated_sessions
WHERE billed_minutes IS NOT NULL AND billed_amount IS NULL;
COMMENT ON VIEW public.unrated_sessions IS
    'Sessions charged by the minute whose tariff had no price when they ended: what they are billed is not known';
COMMENT ON COLUMN public.unrated_sessions.session_id IS 'The session';
COMMENT ON COLUMN public.unrated_sessions.account_id IS 'Its account';
COMMENT ON COLUMN public.unrated_sessions.tariff_id IS 'The tariff: a price of component tariff, variant this, is missing';
COMMENT ON COLUMN public.unrated_sessions.currency IS 'The account''s currency';
COMMENT ON COLUMN public.unrated_sessions.ended_at IS 'When it ended: the price must be valid then';
COMMENT ON COLUMN public.unrated_sessions.duration_sec IS 'Its length in seconds';
COMMENT ON COLUMN public.unrated_sessions.billed_minutes IS 'The minutes it will be billed';

CREATE OR REPLACE VIEW public.unresolved_sessions AS
SELECT s.session_id, s.started_at, s.ended_at, s.call_id, s.business_id, l.lines, l.cost, l.currency
FROM toll.rated_sessions s
CROSS JOIN LATERAL (
    SELECT count(*) AS lines, max(b.currency) AS currency,
           CASE WHEN NOT EXISTS (SELECT FROM toll.unrated n WHERE n.session_id = s.session_id AND n.side = 'cost')
                THEN coalesce(sum(b.cost), 0) END AS cost
    FROM public.billing_charges b
    WHERE b.session_id = s.session_id) AS l
WHERE s.account_id IS NULL;
COMMENT ON VIEW public.unresolved_sessions IS
    'Sessions whose metadata name no account so far: what they cost is charged to nobody until they do';
COMMENT ON COLUMN public.unresolved_sessions.session_id IS 'The session';
COMMENT ON COLUMN public.unresolved_sessions.started_at IS 'When it began';
COMMENT ON COLUMN public.unresolved_sessions.ended_at IS 'When it ended; NULL: it is live';
COMMENT ON COLUMN public.unresolved_sessions.call_id IS 'Metadata''s call_id';
COMMENT ON COLUMN public.unresolved_sessions.business_id IS 'The business that metadata name';
COMMENT ON COLUMN public.unresolved_sessions.lines IS 'How many lines wait for an account';
COMMENT ON COLUMN public.unresolved_sessions.cost IS 'What it cost so far; NULL: part of it has no price';
COMMENT ON COLUMN public.unresolved_sessions.currency IS 'Of cost: the default one';

-- --- sessions billed by the minute ---

CREATE OR REPLACE VIEW public.usage_sessions AS
SELECT session_id, account_id AS user_account_id, duration_ms * 0.001 AS duration_sec, billed_minutes, billed_amount, currency,
       ended_at AS created_at, tariff_snapshot, CASE WHEN currency = 'RUB' THEN billed_amount END AS billed_amount_rub
FROM toll.rated_sessions
WHERE billed_minutes IS NOT NULL AND ended_at IS NOT NULL;
COMMENT ON VIEW public.usage_sessions IS
    'Ended sessions that a minute tariff bills, with the tariff as it was then';
COMMENT ON COLUMN public.usage_sessions.session_id IS 'The session';
COMMENT ON COLUMN public.usage_sessions.user_account_id IS 'Its account';
COMMENT ON COLUMN public.usage_sessions.duration_sec IS 'Its length in seconds, whole milliseconds';
COMMENT ON COLUMN public.usage_sessions.billed_minutes IS 'max(1, started minutes)';
COMMENT ON COLUMN public.usage_sessions.billed_amount IS 'What these cost by the tariff, before what a trial waives; NULL: the tariff had no price';
COMMENT ON COLUMN public.usage_sessions.currency IS 'Of billed_amount';
COMMENT ON COLUMN public.usage_sessions.created_at IS 'When the session ended';
COMMENT ON COLUMN public.usage_sessions.tariff_snapshot IS 'The tariff by which it was billed';
COMMENT ON COLUMN public.usage_sessions.billed_amount_rub IS 'billed_amount where currency is RUB';

-- --- quotas and meters ---

CREATE OR REPLACE VIEW toll.quarter_meters AS
SELECT account_id, quarter, business_id,
       toll.meter_name(component, model) AS meter,
       component IN ('llm', 'session') AS derived,
       CASE component WHEN 'session' THEN sessions ELSE events END AS events,
       CASE component WHEN 'llm' THEN events ELSE quantity END AS quantity
FROM toll.usage_rollup
WHERE component IN ('llm', 'session', 'meter', 'telephony');
COMMENT ON VIEW toll.quarter_meters IS
    'toll.usage_rollup as quantities of meters: those that usage frames reported, and those derived from calls';
COMMENT ON COLUMN toll.quarter_meters.account_id IS 'The account; empty: not known';
COMMENT ON COLUMN toll.quarter_meters.quarter IS 'Start of the quarter of an hour (UTC)';
COMMENT ON COLUMN toll.quarter_meters.business_id IS 'The business; empty: none named';
COMMENT ON COLUMN toll.quarter_meters.meter IS 'The meter, as in usage_quotas';
COMMENT ON COLUMN toll.quarter_meters.derived IS
    'True: counted from calls. An llm event is one api_call, an ended voice session duration / 60 voice_minute';
COMMENT ON COLUMN toll.quarter_meters.events IS 'Events, or sessions';
COMMENT ON COLUMN toll.quarter_meters.quantity IS 'How much, in the meter''s unit';

-- A session that names no business counts as its account's own.
CREATE OR REPLACE VIEW toll.month_meters AS
SELECT nullif(m.business, '') AS business_id, m.period_start, nullif(m.account_id, '') AS account_id, m.meter, m.derived, m.events, m.quantity
FROM (SELECT CASE n.business_id WHEN '' THEN n.account_id ELSE n.business_id END AS business, n.*
      FROM toll.meter_months n
      WHERE n.events <> 0 OR n.quantity <> 0) AS m
LEFT JOIN (SELECT DISTINCT CASE n.business_id WHEN '' THEN n.account_id ELSE n.business_id END AS business, n.period_start, n.meter
           FROM toll.meter_months n
           WHERE NOT n.derived AND n.events > 0) AS r
    ON r.business = m.business AND r.period_start = m.period_start AND r.meter = m.meter
WHERE m.derived <> (r.business IS NOT NULL);
COMMENT ON VIEW toll.month_meters IS
    'Quantities of meters that count, per business, calendar month and account: those reported, or, where a business reported none of that'
    ' meter in that month, those derived from calls';
COMMENT ON COLUMN toll.month_meters.business_id IS 'The business: what metadata name, else the account; NULL: neither is known';
COMMENT ON COLUMN toll.month_meters.period_start IS 'First day of the month, in the account''s time zone';
COMMENT ON COLUMN toll.month_meters.account_id IS 'The account; NULL: not known';
COMMENT ON COLUMN toll.month_meters.meter IS 'The meter, as in usage_quotas';
COMMENT ON COLUMN toll.month_meters.derived IS 'True: counted from calls; false: reported by usage frames';
COMMENT ON COLUMN toll.month_meters.events IS 'Events, or sessions';
COMMENT ON COLUMN toll.month_meters.quantity IS 'How much, in the meter''s unit';

CREATE OR REPLACE VIEW public.usage_aggregation AS
SELECT m.business_id, m.period_start AS period, m.meter AS event_type, sum(m.quantity) AS quantity,
       CASE WHEN bool_or(m.quantity <> 0 AND q.overage_price_cents IS NULL) OR min(a.currency) <> max(a.currency) THEN NULL
            ELSE coalesce(sum(m.quantity * q.overage_price_cents), 0) * 0.01 END AS cost,
       CASE WHEN min(a.currency) = max(a.currency) THEN min(a.currency) END AS currency, m.business_id AS business
FROM toll.month_meters m
LEFT JOIN public.accounts a ON a.account_id = m.account_id
LEFT JOIN public.usage_quotas q ON q.plan_id = a.plan_id AND q.event_type = m.meter
GROUP BY m.business_id, m.period_start, m.meter;
COMMENT ON VIEW public.usage_aggregation IS
    'What each business used of each meter in each billing period, a calendar month. cost shows every unit, included or not, at today''s price'
    ' of the account''s plan (usage_quotas); it is not what is charged. Exact, not rounded';
COMMENT ON COLUMN public.usage_aggregation.business_id IS
    'The business: metadata''s business_id or tenant_id, else the account; NULL: neither is known';
COMMENT ON COLUMN public.usage_aggregation.period IS 'First day of the month, in the accounts'' time zone';
COMMENT ON COLUMN public.usage_aggregation.event_type IS
    'The meter. api_call and voice_minute are counted from calls where the business did not report them in that month: one per llm event,'
    ' duration / 60 per ended voice session';
COMMENT ON COLUMN public.usage_aggregation.quantity IS 'How much, in the meter''s unit';
COMMENT ON COLUMN public.usage_aggregation.cost IS
    'quantity x unit price, in units of currency; NULL: the plan has no price for it, or accounts of several currencies used it';
COMMENT ON COLUMN public.usage_aggregation.currency IS 'The accounts'' currency; NULL: several, or not known';
COMMENT ON COLUMN public.usage_aggregation.business IS 'The same as business_id, by its short name';

CREATE OR REPLACE VIEW public.billing_overview AS
SELECT t.business_id, b.name AS business_name, t.api_calls, t.voice_minutes, t.ai_queries, t.storage_mb,
       CASE WHEN t.several IS NOT TRUE AND t.unknown = 0 THEN t.total_cost END AS total_cost,
       CASE WHEN NOT t.several THEN t.currency END AS currency
FROM (
    SELECT u.business_id,
           coalesce(sum(u.quantity) FILTER (WHERE u.event_type = 'api_call'), 0) AS api_calls,
           coalesce(sum(u.quantity) FILTER (WHERE u.event_type = 'voice_minute'), 0) AS voice_minutes,
           coalesce(sum(u.quantity) FILTER (WHERE u.event_type = 'ai_query'), 0) AS ai_queries,
           coalesce(sum(u.quantity) FILTER (WHERE u.event_type = 'storage_mb'), 0) AS storage_mb,
           coalesce(sum(u.cost) FILTER (WHERE u.event_type IN ('api_call', 'voice_minute', 'ai_query', 'storage_mb')), 0) AS total_cost,
           count(*) FILTER (WHERE u.event_type IN ('api_call', 'voice_minute', 'ai_query', 'storage_mb') AND u.cost IS NULL) AS unknown,
           min(u.currency) <> max(u.currency) AS several, min(u.currency) AS currency
    FROM public.usage_aggregation u
    GROUP BY u.business_id) AS t
LEFT JOIN public.accounts b ON b.account_id = t.business_id;
COMMENT ON VIEW public.billing_overview IS
    'Every business that used anything: what it used in all its months, and what that is at today''s prices of its plan (usage_aggregation)';
COMMENT ON COLUMN public.billing_overview.business_id IS
    'The business: metadata''s business_id or tenant_id, else the account; NULL: neither is known';
COMMENT ON COLUMN public.billing_overview.business_name IS 'Its name, where an account of that id has one';
COMMENT ON COLUMN public.billing_overview.api_calls IS 'Calls reported as api_call, else llm events';
COMMENT ON COLUMN public.billing_overview.voice_minutes IS 'Minutes reported as voice_minute, else those of ended voice sessions, unrounded';
COMMENT ON COLUMN public.billing_overview.ai_queries IS 'AI queries';
COMMENT ON COLUMN public.billing_overview.storage_mb IS 'Storage, in MB as reported, added up';
COMMENT ON COLUMN public.billing_overview.total_cost IS
    'Sum of quantity x unit price of these four, in units of currency; NULL: one of the prices is not known, or there are several currencies';
COMMENT ON COLUMN public.billing_overview.currency IS 'Of total_cost; NULL: several, or not known';

CREATE OR REPLACE VIEW public.quota_status AS
SELECT a.account_id, p.period_start, q.event_type, u.used, q.included_quantity AS included, greatest(q.included_quantity - u.used, 0) AS remaining,
       greatest(u.used - q.included_quantity, 0) AS overage, q.quota_limit, u.used > q.quota_limit AS over_limit,
       greatest(u.used - q.included_quantity, 0) * q.overage_price_cents * 0.01 AS overage_cost, a.currency
FROM public.accounts a
JOIN public.usage_quotas q ON q.plan_id = a.plan_id
JOIN (SELECT n.account_id, n.period_start FROM toll.meter_months n
      UNION
      SELECT n.account_id, n.period_start FROM toll.plan_usage n
      UNION
      SELECT n.account_id, date_trunc('month', now() AT TIME ZONE n.time_zone)::date FROM public.accounts n) AS p
    ON p.account_id = a.account_id
LEFT JOIN toll.plan_usage c ON c.account_id = a.account_id AND c.period_start = p.period_start AND c.event_type = q.event_type
LEFT JOIN (SELECT n.account_id, n.period_start, n.meter,
                  CASE WHEN bool_or(NOT n.derived AND n.events > 0) THEN sum(n.quantity) FILTER (WHERE NOT n.derived) ELSE sum(n.quantity) END AS quantity
           FROM toll.meter_months n
           GROUP BY n.account_id, n.period_start, n.meter) AS m
    ON m.account_id = a.account_id AND m.period_start = p.period_start AND m.meter = q.event_type
CROSS JOIN LATERAL (SELECT coalesce(c.quantity, m.quantity, 0) AS used) AS u;
COMMENT ON VIEW public.quota_status IS
    'How much of its plan''s quotas each account used in each calendar month that it used anything in, and in the current one';
COMMENT ON COLUMN public.quota_status.account_id IS 'The account';
COMMENT ON COLUMN public.quota_status.period_start IS 'First day of the month, in the account''s time zone';
COMMENT ON COLUMN public.quota_status.event_type IS 'The meter';
COMMENT ON COLUMN public.quota_status.used IS
    'Used so far: of an account charged by plan as it was counted for charging, else as in usage_aggregation';
COMMENT ON COLUMN public.quota_status.included IS 'What the account''s plan includes each month';
COMMENT ON COLUMN public.quota_status.remaining IS 'included - used, not below 0';
COMMENT ON COLUMN public.quota_status.overage IS 'used - included, not below 0';
COMMENT ON COLUMN public.quota_status.quota_limit IS 'Above it an alert is raised; NULL: never';
COMMENT ON COLUMN public.quota_status.over_limit IS 'used is above quota_limit; NULL: there is none';
COMMENT ON COLUMN public.quota_status.overage_cost IS
    'overage at the plan''s price of today, in units of currency, not rounded. Charged only under the scheme plan';
COMMENT ON COLUMN public.quota_status.currency IS 'The account''s currency';

-- A row per event, from its first line: corrections and what was written before the account was known don't count.
CREATE OR REPLACE VIEW public.usage_events AS
SELECT u.id, u.business_id, u.event_type, u.quantity, q.overage_price_cents AS unit_price_cents,
       u.quantity * q.overage_price_cents AS total_cost_cents, u.metadata, u.processed_at, u.created_at, u.account_id, u.session_id
FROM (
    SELECT l.event_id::text AS id, coalesce(s.business_id, s.account_id) AS business_id,
           CASE l.component WHEN 'llm' THEN 'api_call' ELSE l.model END AS event_type,
           CASE l.component WHEN 'llm' THEN 1 ELSE (l.quantities ->> 'quantity')::numeric END AS quantity, l.component = 'llm' AS derived,
           jsonb_strip_nulls(jsonb_build_object('session_id', l.session_id, 'call_id', s.call_id, 'account_id', l.account_id,
               'component', l.component, 'provider', l.provider, 'model', CASE l.component WHEN 'llm' THEN l.model END)) AS metadata,
           l.booked_at AS processed_at, l.occurred_at AS created_at, l.account_id, l.session_id
    FROM public.billing_charges l
    JOIN toll.rated_sessions s ON s.session_id = l.session_id AND s.account_id IS NOT DISTINCT FROM l.account_id
    WHERE l.kind = 'usage' AND l.component IN ('llm', 'meter', 'telephony') AND l.quantities <> '{}'
    UNION ALL
    SELECT l.event_id::text, l.account_id, l.model, (l.quantities ->> 'quantity')::numeric, false,
           jsonb_strip_nulls(jsonb_build_object('account_id', l.account_id, 'component', l.component, 'provider', l.provider)),
           l.booked_at, l.occurred_at, l.account_id, NULL
    FROM public.billing_charges l
    WHERE l.session_id IS NULL AND l.kind = 'usage' AND l.component IN ('meter', 'telephony') AND l.quantities <> '{}'
    UNION ALL
    SELECT s.session_id::text, coalesce(s.business_id, s.account_id), 'voice_minute', s.voice_minutes, true,
           jsonb_strip_nulls(jsonb_build_object('session_id', s.session_id, 'call_id', s.call_id, 'account_id', s.account_id,
               'component', 'session')), s.ended_at, s.ended_at, s.account_id, s.session_id
    FROM toll.rated_sessions s
    WHERE s.ended_at IS NOT NULL AND s.voice_minutes > 0) AS u
LEFT JOIN public.accounts a ON a.account_id = u.account_id
LEFT JOIN public.usage_quotas q ON q.plan_id = a.plan_id AND q.event_type = u.event_type
WHERE NOT u.derived OR NOT EXISTS (
    SELECT FROM toll.month_meters r
    WHERE NOT r.derived AND r.meter = u.event_type AND r.business_id IS NOT DISTINCT FROM u.business_id
      AND r.period_start = date_trunc('month', u.created_at AT TIME ZONE coalesce(a.time_zone, 'UTC'))::date);
COMMENT ON VIEW public.usage_events IS
    'Everything a business used, one row per event, or per ended voice session for its minutes, at today''s price of the account''s plan. Adds'
    ' up to usage_aggregation. Quick for a session_id, or for an hour or a day by created_at';
COMMENT ON COLUMN public.usage_events.id IS 'The event''s number (billing_events.id), or of voice minutes the session''s id';
COMMENT ON COLUMN public.usage_events.business_id IS 'The business: metadata''s business_id or tenant_id, else the account; NULL: neither is known';
COMMENT ON COLUMN public.usage_events.event_type IS
    'The meter. api_call and voice_minute are counted from calls where the business did not report them in that month';
COMMENT ON COLUMN public.usage_events.quantity IS 'How much, in the meter''s unit; voice minutes are duration / 60, unrounded';
COMMENT ON COLUMN public.usage_events.unit_price_cents IS
    'Price of one unit by the account''s plan (usage_quotas), in cents of the account''s currency; NULL: it has none for this meter';
COMMENT ON COLUMN public.usage_events.total_cost_cents IS 'quantity x unit_price_cents, not rounded';
COMMENT ON COLUMN public.usage_events.metadata IS 'What it belongs to: session_id, call_id, account_id, component, provider, model';
COMMENT ON COLUMN public.usage_events.processed_at IS 'When it was booked: created_at, or later where that period was closed';
COMMENT ON COLUMN public.usage_events.created_at IS 'When it occurred; of voice minutes, the session''s end';
COMMENT ON COLUMN public.usage_events.account_id IS 'The account; NULL: not known yet';
COMMENT ON COLUMN public.usage_events.session_id IS 'The session; NULL: outside any';

-- --- providers ---

CREATE OR REPLACE VIEW public.stage_latency AS
SELECT component, provider, model, metric, events, p50_ms, p90_ms, p95_ms, p99_ms
FROM public.stage_latency(now() - interval '7 days', now());
COMMENT ON VIEW public.stage_latency IS
    'How long each provider and model took in the last seven days, as percentiles that are at most 4.9 % off. For other times: stage_latency(from, to)';
COMMENT ON COLUMN public.stage_latency.component IS 'llm, tts, stt or meter';
COMMENT ON COLUMN public.stage_latency.provider IS 'The provider';
COMMENT ON COLUMN public.stage_latency.model IS 'The model';
COMMENT ON COLUMN public.stage_latency.metric IS 'ttfb: until the first byte; duration: until the last';
COMMENT ON COLUMN public.stage_latency.events IS 'Events that reported it';
COMMENT ON COLUMN public.stage_latency.p50_ms IS 'Half of them took at most so many milliseconds';
COMMENT ON COLUMN public.stage_latency.p90_ms IS 'Nine in ten';
COMMENT ON COLUMN public.stage_latency.p95_ms IS 'Nineteen in twenty';
COMMENT ON COLUMN public.stage_latency.p99_ms IS 'Ninety-nine in a hundred';
