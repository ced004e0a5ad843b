-- What a session as a whole is billed: the minute tariff when it ends, its voice minutes, and the difference when its end is corrected.

CREATE OR REPLACE FUNCTION toll.bill_sessions(ids uuid[], voiced uuid[], resolved uuid[], old_businesses text[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    result toll.rated_line[];
BEGIN
    PERFORM FROM toll.rated_sessions AS r WHERE r.session_id = ANY (bill_sessions.ids) ORDER BY r.session_id FOR NO KEY UPDATE;
    -- Each statement has its own snapshot: this one sees what was committed before the locks were granted.
    WITH known AS MATERIALIZED (
        SELECT r.*, CASE WHEN r.call_id IS NULL THEN toll.name_in(b.metadata, 'call_id') END AS late_call_id, i.place, b.started_at AS new_started_at, b.ended_at AS new_ended_at, r.voice OR i.voiced AS new_voice,
               CASE WHEN i.resolved THEN '' ELSE coalesce(r.account_id, '') END AS old_account_id,
               coalesce(CASE WHEN i.resolved THEN i.old_business_id ELSE r.business_id END, '') AS old_business_id,
               trunc(extract(epoch FROM b.ended_at - b.started_at) * 1000)::bigint AS new_duration_ms,
               coalesce(r.currency, (SELECT s.default_currency FROM toll.rating_settings AS s)) AS line_currency, a.closed_until,
               (r.ended_at < a.trial_ends_at) <> (b.ended_at < a.trial_ends_at) AS over_trial
        FROM (SELECT u.session_id, 4611686018427387904 + row_number() OVER (ORDER BY u.session_id) * 8 AS place,
                     v.session_id IS NOT NULL AS voiced, n.session_id IS NOT NULL AS resolved, n.business_id AS old_business_id
              FROM (SELECT DISTINCT x.session_id FROM unnest(bill_sessions.ids) AS x (session_id)) AS u
              LEFT JOIN unnest(bill_sessions.voiced) AS v (session_id) ON v.session_id = u.session_id
              LEFT JOIN unnest(bill_sessions.resolved, bill_sessions.old_businesses) AS n (session_id, business_id)
                     ON n.session_id = u.session_id) AS i
        CROSS JOIN LATERAL (SELECT r.*, r.ctid AS spot FROM toll.rated_sessions AS r WHERE r.session_id = i.session_id OFFSET 0) AS r
        CROSS JOIN LATERAL (SELECT b.started_at, b.ended_at, b.metadata FROM public.billing_sessions AS b WHERE b.session_id = i.session_id OFFSET 0) AS b
        LEFT JOIN LATERAL (SELECT c.closed_until, c.trial_ends_at FROM public.accounts AS c WHERE c.account_id = r.account_id OFFSET 0) AS a ON true
    ), timed AS MATERIALIZED (
        SELECT k.*,
               CASE WHEN k.new_voice THEN toll.divide_half_even(k.new_duration_ms, 60000, 9) END AS new_voice_minutes,
               -- Started minutes, one at least.
               CASE WHEN k.new_voice AND k.new_ended_at IS NOT NULL AND k.charge_by IN ('minutes', 'prepaid_minutes')
                    THEN greatest(1, (k.new_duration_ms + 59999) / 60000) END AS new_billed_minutes
        FROM known AS k
    ), tariffs AS MATERIALIZED (
        SELECT p.session_id, p.charge, p.charge_price_ids
        FROM unnest(toll.price_events(ARRAY(
            SELECT ROW(0, t.new_ended_at, t.session_id, t.account_id, coalesce(t.business_id, ''), 'usage', t.closed_until, 'tariff', '', '',
                       t.tariff_id, '', t.account_id, coalesce(t.plan_id, ''), t.currency, NULL, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                       t.new_billed_minutes)::toll.rating_input
            FROM timed AS t
            WHERE t.new_billed_minutes IS NOT NULL
              AND (t.billed_minutes IS NULL OR t.billed_amount IS NULL OR t.billed_minutes <> t.new_billed_minutes
                   OR t.ended_at <> t.new_ended_at)))) AS p
    ), earlier AS MATERIALIZED (
        SELECT p.session_id, sum(c.charge) AS charge, sum(c.waived) AS waived
        FROM tariffs AS p
        CROSS JOIN LATERAL (SELECT c.charge, c.waived FROM public.billing_charges AS c
                            WHERE c.session_id = p.session_id AND c.component = 'tariff' OFFSET 0) AS c
        GROUP BY p.session_id
    ), billed AS MATERIALIZED (
        -- FULL, though none is without its session: never one by one, however few the planner thinks of.
        SELECT t.*, p.session_id IS NOT NULL AS tried, p.charge, p.charge_price_ids, e.charge AS old_charge, e.waived AS old_waived,
               t.over_trial AND p.charge IS NOT NULL AND e.charge IS NOT NULL AS anew
        FROM timed AS t
        FULL JOIN tariffs AS p ON p.session_id = t.session_id
        FULL JOIN earlier AS e ON e.session_id = p.session_id
    ), noted AS (
        UPDATE toll.rated_sessions AS r
        SET started_at = t.new_started_at, ended_at = t.new_ended_at, duration_ms = t.new_duration_ms, voice = t.new_voice,
            voice_minutes = t.new_voice_minutes, billed_minutes = t.new_billed_minutes, call_id = coalesce(r.call_id, t.late_call_id),
            billed_amount = CASE WHEN t.tried THEN t.charge ELSE r.billed_amount END,
            tariff_snapshot = CASE WHEN t.charge IS NULL THEN r.tariff_snapshot ELSE (
                SELECT jsonb_build_object(
                    'tariff_id', t.tariff_id, 'price_id', c.price_id, 'scope', c.scope_kind, 'price', c.price, 'unit_quantity', c.unit_quantity,
                    'currency', c.currency, 'valid_from', lower(c.valid), 'billed_minutes', t.new_billed_minutes)
                FROM public.pricing_config AS c WHERE c.price_id = t.charge_price_ids[1]) END
        FROM billed AS t
        WHERE r.ctid = t.spot -- it is locked, so it stays there
          AND ((r.started_at, r.ended_at, r.voice, r.billed_minutes) IS DISTINCT FROM
               (t.new_started_at, t.new_ended_at, t.new_voice, t.new_billed_minutes)
               OR t.tried AND t.charge IS DISTINCT FROM r.billed_amount OR t.late_call_id IS NOT NULL)
    ), entries AS (
        -- What its end counted before, taken back ...
        SELECT t.place, t.session_id, t.ended_at AS occurred_at, nullif(t.old_account_id, '') AS account_id, t.old_business_id AS business_id,
               'session' AS component, NULL::numeric AS charge, NULL::numeric AS waived, NULL::bigint[] AS charge_price_ids, NULL AS kind,
               CASE WHEN t.charge_by = 'plan' AND t.old_account_id <> '' THEN 'plan' END AS reason, NULL::numeric AS minutes, -1 AS sessions,
               -coalesce(t.voice_minutes, 0) AS quantity, 0 AS unrated_charge, NULL::jsonb AS quantities,
               t.line_currency, t.closed_until, t.plan_id
        FROM billed AS t
        WHERE t.ended_at IS NOT NULL AND (t.ended_at, t.voice_minutes, t.old_account_id) IS DISTINCT FROM
                                         (t.new_ended_at, t.new_voice_minutes, coalesce(t.account_id, ''))
        UNION ALL
        -- ... and what it counts now.
        SELECT t.place + 2, t.session_id, t.new_ended_at, t.account_id, coalesce(t.business_id, ''), 'session', NULL, NULL, NULL, NULL,
               CASE WHEN t.charge_by = 'plan' THEN 'plan' END, NULL, 1, coalesce(t.new_voice_minutes, 0), 0, NULL,
               t.line_currency, t.closed_until, t.plan_id
        FROM billed AS t
        WHERE t.new_ended_at IS NOT NULL AND (t.ended_at, t.voice_minutes, t.old_account_id) IS DISTINCT FROM
                                             (t.new_ended_at, t.new_voice_minutes, coalesce(t.account_id, ''))
        UNION ALL
        SELECT t.place + 4, t.session_id, t.new_ended_at, t.account_id, coalesce(t.business_id, ''), 'tariff', t.charge, 0, t.charge_price_ids,
               'tariff', NULL, CASE WHEN t.charge_by = 'prepaid_minutes' THEN t.new_billed_minutes END, 1, t.new_billed_minutes,
               (t.charge IS NULL)::integer, jsonb_build_object('minutes', t.new_billed_minutes), t.line_currency, t.closed_until, t.plan_id
        FROM billed AS t
        WHERE t.tried AND t.billed_minutes IS NULL
        UNION ALL
        -- An end that moves over that of the trial: a charge taken back, and another one, for a trial covers a charge or does not.
        SELECT t.place + 4, t.session_id, t.ended_at, t.account_id, coalesce(t.business_id, ''), 'tariff', -t.old_charge, -t.old_waived, NULL,
               'tariff', 'duration corrected',
               CASE WHEN t.charge_by = 'prepaid_minutes' THEN -toll.minutes_due(t.billed_minutes, t.old_charge, t.old_waived) END,
               -1, -t.billed_minutes, -(t.billed_amount IS NULL)::integer, jsonb_build_object('minutes', -t.billed_minutes),
               t.line_currency, t.closed_until, t.plan_id
        FROM billed AS t
        WHERE t.billed_minutes IS NOT NULL AND t.anew
        UNION ALL
        SELECT t.place + 6, t.session_id, t.new_ended_at, t.account_id, coalesce(t.business_id, ''), 'tariff', t.charge, 0, t.charge_price_ids,
               'tariff', 'duration corrected', CASE WHEN t.charge_by = 'prepaid_minutes' THEN t.new_billed_minutes END,
               1, t.new_billed_minutes, 0, jsonb_build_object('minutes', t.new_billed_minutes), t.line_currency, t.closed_until, t.plan_id
        FROM billed AS t
        WHERE t.billed_minutes IS NOT NULL AND t.anew
        UNION ALL
        -- Another correction, or the first price.
        SELECT t.place + 4, t.session_id, t.new_ended_at, t.account_id, coalesce(t.business_id, ''), 'tariff', t.charge - coalesce(t.old_charge, 0),
               toll.given_back(t.old_waived, t.charge), t.charge_price_ids,
               'tariff', CASE WHEN t.old_charge IS NOT NULL THEN 'duration corrected' END,
               CASE WHEN t.charge_by = 'prepaid_minutes'
                    THEN toll.minutes_due(t.new_billed_minutes, t.charge, t.old_waived + toll.given_back(t.old_waived, t.charge))
                         - toll.minutes_due(t.billed_minutes, t.old_charge, t.old_waived) END, 0,
               t.new_billed_minutes - t.billed_minutes,
               (t.charge IS NULL)::integer - (t.billed_amount IS NULL)::integer,
               jsonb_build_object('minutes', t.new_billed_minutes - t.billed_minutes), t.line_currency, t.closed_until, t.plan_id
        FROM billed AS t
        WHERE t.tried AND t.billed_minutes IS NOT NULL AND t.anew IS NOT TRUE
          AND (t.billed_minutes <> t.new_billed_minutes OR t.charge <> coalesce(t.old_charge, 0)
               OR (t.charge IS NULL) <> (t.billed_amount IS NULL))
    )
    SELECT array_agg(ROW(
        e.place, NULL, e.occurred_at, e.session_id, e.account_id, e.business_id, e.component, NULL, NULL, NULL, e.quantities, NULL, NULL, NULL,
        e.charge, coalesce(e.waived, 0), e.line_currency, NULL, e.charge_price_ids, e.kind, e.reason, e.closed_until, coalesce(e.plan_id, ''),
        e.minutes, NULL, NULL, 0, e.sessions, 0, 0, 0, 0, 0, e.quantity, 0, e.unrated_charge)::toll.rated_line ORDER BY e.place)
    INTO result
    FROM entries AS e;
    RETURN coalesce(result, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.bill_sessions(uuid[], uuid[], uuid[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.bill_sessions(uuid[], uuid[], uuid[], text[]) IS
    'Notes how these sessions stand (voiced: those that have voice use; a call_id that metadata named late), and gives the lines that follow: the tariff''s, differences after a correction, and what'
    ' their ends add to the roll-up. resolved: those whose account was found just now, with the business they counted for before';

CREATE OR REPLACE FUNCTION toll.move_lines(resolved uuid[], old_businesses text[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    again toll.rated_line[];
    taken toll.rated_line[];
BEGIN
    -- Of events that are still stored.
    again := toll.price_events(ARRAY(
        SELECT e.input
        FROM unnest(move_lines.resolved) AS n (session_id)
        CROSS JOIN LATERAL (SELECT v.id, v.input FROM toll.rating_events AS v WHERE v.session_id = n.session_id OFFSET 0) AS e
        -- IS TRUE: hashed, however many there are.
        WHERE (e.id IN (SELECT c.event_id FROM public.billing_charges AS c
                        WHERE c.session_id = ANY (move_lines.resolved) AND c.account_id IS NULL)) IS TRUE));
    SELECT array_agg(ROW(
        -n.event_id, n.event_id, n.occurred_at, n.session_id, NULL, o.business_id, n.component, n.provider, n.model, n.variant, '{}',
        -o.cost_original, o.cost_currency, -o.cost, NULL, 0, o.currency, NULL, NULL, 'adjustment', 'account resolved', NULL, NULL, NULL, NULL, NULL,
        -n.events, 0, -n.input_tokens, -n.cached_input_tokens, -n.output_tokens, -n.characters, -n.audio_us, -n.quantity,
        -(o.cost IS NULL)::integer, 0)::toll.rated_line)
    INTO taken
    FROM unnest(again) AS n
    JOIN (SELECT c.event_id, c.currency, coalesce(max(b.business_id), '') AS business_id, sum(c.cost) AS cost, sum(c.cost_original) AS cost_original,
                 max(c.cost_currency) AS cost_currency
          FROM unnest(move_lines.resolved, move_lines.old_businesses) AS b (session_id, business_id)
          CROSS JOIN LATERAL (SELECT l.event_id, l.currency, l.cost, l.cost_original, l.cost_currency FROM public.billing_charges AS l
                              WHERE l.session_id = b.session_id AND l.account_id IS NULL AND l.event_id IS NOT NULL OFFSET 0) AS c
          GROUP BY c.event_id, c.currency) AS o ON o.event_id = n.event_id;
    DELETE FROM toll.unrated AS u WHERE u.event_id = ANY (ARRAY(SELECT l.event_id FROM unnest(again) AS l));
    RETURN coalesce(taken, '{}') || again;
END $$;
REVOKE ALL ON FUNCTION toll.move_lines(uuid[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.move_lines(uuid[], text[]) IS
    'Of sessions whose account was found just now: lines that take back what was written without an account, and the same events'' lines with it';
