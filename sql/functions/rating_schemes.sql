-- What the account's own arrangements make of lines: what goes beyond its plan, what its trial waives. Both go by the order in which lines are rated
-- (rated_line.place: events by their number, each followed by its overage, then sessions by theirs), so these accounts stay locked until the transaction
-- ends.

-- As they were when it looked for plans itself, and when trials got nothing back.
DROP FUNCTION IF EXISTS toll.lock_schemes(text[]);
DROP FUNCTION IF EXISTS toll.lock_schemes(text[], text[]);
DROP FUNCTION IF EXISTS toll.waive_trials(toll.rated_line[]);
CREATE OR REPLACE FUNCTION toll.lock_schemes(payers text[], changed text[])
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
BEGIN
    RETURN ARRAY(
        SELECT a.account_id FROM public.accounts AS a
        WHERE a.account_id = ANY (lock_schemes.payers)
          AND (a.account_id = ANY (lock_schemes.changed)
               OR (a.trial_ends_at IS NOT NULL AND (a.trial_allowance IS NULL OR a.trial_used < a.trial_allowance)))
        ORDER BY a.account_id FOR NO KEY UPDATE);
END $$;
REVOKE ALL ON FUNCTION toll.lock_schemes(text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.lock_schemes(text[], text[]) IS
    'Locks those of these accounts whose lines a plan or a trial may change, until the transaction ends, and returns them: those with a trial''s allowance left,'
    ' and `changed`: those with lines of a plan, or with lines that give a trial something back, and those that report a meter for the first time';

CREATE OR REPLACE FUNCTION toll.add_overage(lines toll.rated_line[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    added toll.rated_line[];
BEGIN
    IF NOT EXISTS (SELECT FROM unnest(add_overage.lines) AS l WHERE l.reason = 'plan') THEN
        RETURN add_overage.lines;
    END IF;
    -- What is counted: usage frames by their meter; calls of an llm as api_call and voice sessions as voice_minute, until a usage frame reports the
    -- account's. A session whose end was corrected counts the difference, in each month.
    WITH l AS MATERIALIZED (
        -- reported_at: where the account's first usage frame of that meter is among these.
        SELECT u.*, m.meter, min(u.place) FILTER (WHERE u.component = 'meter') OVER (PARTITION BY u.account_id, m.meter) AS reported_at
        FROM unnest(add_overage.lines) AS u
        CROSS JOIN LATERAL (
            SELECT CASE u.component WHEN 'llm' THEN 'api_call' WHEN 'session' THEN 'voice_minute' ELSE u.model END AS meter) AS m
    ), counted AS MATERIALIZED (
        SELECT l.account_id, l.scope_plan, l.event_id, l.session_id, l.meter, p.period_start, max(l.place) AS place,
               max(l.occurred_at) AS occurred_at, sum(m.quantity) AS quantity, min(l.sessions) < 0 AS corrected,
               max(l.currency) AS currency, max(l.business_id) AS business_id, max(l.closed_until) AS closed_until
        FROM l
        -- OFFSET 0: by its key, whatever the planner thinks of the table.
        CROSS JOIN LATERAL (SELECT c.time_zone, c.reported_meters FROM public.accounts AS c WHERE c.account_id = l.account_id OFFSET 0) AS a
        CROSS JOIN LATERAL (SELECT CASE l.component WHEN 'llm' THEN l.events ELSE l.quantity END AS quantity) AS m
        CROSS JOIN LATERAL (SELECT date_trunc('month', l.occurred_at AT TIME ZONE a.time_zone)::date AS period_start) AS p
        WHERE l.reason = 'plan' AND l.component IN ('llm', 'meter', 'telephony', 'session')
          AND (l.component IN ('meter', 'telephony')
               OR (l.meter <> ALL (a.reported_meters) AND (l.reported_at < l.place) IS NOT TRUE))
        GROUP BY l.account_id, l.scope_plan, l.event_id, l.session_id, l.meter, p.period_start
        HAVING sum(m.quantity) <> 0
    ), running AS MATERIALIZED (
        SELECT c.*, q.included_quantity, q.overage_price_cents, q.quota_limit, u.alerted_at, coalesce(u.quantity, 0) + sum(c.quantity) OVER w AS after
        FROM counted AS c
        LEFT JOIN public.usage_quotas AS q ON q.plan_id = c.scope_plan AND q.event_type = c.meter
        LEFT JOIN LATERAL (SELECT k.quantity, k.alerted_at FROM toll.plan_usage AS k
                           WHERE k.account_id = c.account_id AND k.period_start = c.period_start AND k.event_type = c.meter OFFSET 0) AS u ON true
        WINDOW w AS (PARTITION BY c.account_id, c.period_start, c.meter ORDER BY c.place ROWS UNBOUNDED PRECEDING)
    ), beyond AS MATERIALIZED (
        SELECT o.*, CASE WHEN abs(o.overage) * o.overage_price_cents < 1e13 - 1 -- a line holds eleven digits before the point
                         THEN toll.round_half_even(o.overage * o.overage_price_cents * 0.01, 9) END AS charge
        FROM (SELECT r.*, greatest(r.after - r.included_quantity, 0) - greatest(r.after - r.quantity - r.included_quantity, 0) AS overage
              FROM running AS r) AS o
        WHERE o.overage <> 0
    ), kept AS (
        INSERT INTO toll.plan_usage AS u (account_id, period_start, event_type, quantity, alerted_at)
        SELECT r.account_id, r.period_start, r.meter, sum(r.quantity), CASE WHEN bool_or(r.after > r.quota_limit) THEN now() END
        FROM running AS r GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (account_id, period_start, event_type) DO UPDATE
        SET quantity = u.quantity + excluded.quantity, alerted_at = coalesce(u.alerted_at, excluded.alerted_at)
    ), alerted AS (
        INSERT INTO toll.quota_alerts (account_id, period_start, event_type, quantity, quota_limit)
        SELECT DISTINCT ON (r.account_id, r.period_start, r.meter) r.account_id, r.period_start, r.meter, r.after, r.quota_limit
        FROM running AS r
        WHERE r.after > r.quota_limit AND r.alerted_at IS NULL
        ORDER BY r.account_id, r.period_start, r.meter, r.place
        RETURNING pg_notify('toll_quota', account_id) AS told
    ), crossing AS MATERIALIZED (
        -- Ends that move over that of the trial, within a month: a trial covers a charge or does not. So what the session was charged is taken back, and charged anew.
        SELECT n.account_id, n.session_id, n.scope_plan, n.business_id, n.currency, n.closed_until, n.meter, n.old_place, n.old_at, n.place, n.occurred_at,
               e.charge, e.waived, e.quantity, e.overage
        FROM (SELECT l.*, lag(l.place) OVER w AS old_place, lag(l.occurred_at) OVER w AS old_at
              FROM l WHERE l.component = 'session' AND l.reason = 'plan'
              WINDOW w AS (PARTITION BY l.account_id, l.session_id ORDER BY l.place)) AS n
        CROSS JOIN LATERAL (SELECT c.time_zone, c.trial_ends_at FROM public.accounts AS c WHERE c.account_id = n.account_id OFFSET 0) AS a
        CROSS JOIN LATERAL (SELECT sum(c.charge) AS charge, sum(c.waived) AS waived, sum((c.quantities ->> 'quantity')::numeric) AS quantity,
                                   sum((c.quantities ->> 'overage')::numeric) AS overage
                            FROM public.billing_charges AS c
                            WHERE c.session_id = n.session_id AND c.account_id = n.account_id AND c.kind = 'overage' AND c.event_id IS NULL
                              AND c.charge IS NOT NULL OFFSET 0) AS e
        WHERE (n.old_at < a.trial_ends_at) <> (n.occurred_at < a.trial_ends_at)
          AND date_trunc('month', n.old_at AT TIME ZONE a.time_zone) = date_trunc('month', n.occurred_at AT TIME ZONE a.time_zone)
          AND (e.charge <> 0 OR e.waived <> 0)
          AND NOT EXISTS (SELECT FROM beyond AS b WHERE b.session_id = n.session_id AND b.event_id IS NULL AND b.charge IS NULL OFFSET 0)
    ), lines AS (
        SELECT b.place + 1 AS place, b.event_id, b.occurred_at, b.session_id, b.account_id, b.business_id, b.meter, b.quantity, b.overage, b.charge,
               CASE WHEN NOT b.corrected OR e.waived IS NULL OR b.charge IS NULL THEN 0 ELSE toll.given_back(e.waived, e.charge + b.charge) END AS waived,
               b.currency, b.corrected, b.closed_until, b.scope_plan
        FROM beyond AS b
        LEFT JOIN LATERAL (SELECT sum(c.charge) AS charge, sum(c.waived) AS waived FROM public.billing_charges AS c
                           WHERE b.corrected AND c.session_id = b.session_id AND c.kind = 'overage' AND c.event_id IS NULL OFFSET 0) AS e ON true
        WHERE b.overage <> 0 AND (b.event_id IS NULL AND b.session_id IN (SELECT x.session_id FROM crossing AS x)) IS NOT TRUE
        UNION ALL
        SELECT x.old_place + 1, NULL, x.old_at, x.session_id, x.account_id, x.business_id, x.meter, -x.quantity, -x.overage, -x.charge, -x.waived,
               x.currency, true, x.closed_until, x.scope_plan
        FROM crossing AS x
        UNION ALL
        SELECT x.place + 1, NULL, x.occurred_at, x.session_id, x.account_id, x.business_id, x.meter, x.quantity + coalesce(b.quantity, 0),
               x.overage + coalesce(b.overage, 0), x.charge + coalesce(b.charge, 0), 0, x.currency, true, x.closed_until, x.scope_plan
        FROM crossing AS x
        LEFT JOIN LATERAL (SELECT k.quantity, k.overage, k.charge FROM beyond AS k
                           WHERE k.session_id = x.session_id AND k.event_id IS NULL AND k.meter = x.meter OFFSET 0) AS b ON true
        WHERE x.charge + coalesce(b.charge, 0) <> 0 OR x.overage + coalesce(b.overage, 0) <> 0
    )
    SELECT array_agg(ROW(
        n.place, n.event_id, n.occurred_at, n.session_id, n.account_id, n.business_id, 'meter', NULL, n.meter, NULL,
        jsonb_build_object('quantity', n.quantity, 'overage', n.overage), NULL, NULL, NULL, n.charge, n.waived,
        n.currency, NULL, NULL, 'overage', CASE WHEN n.corrected THEN 'duration corrected' END, n.closed_until, n.scope_plan, NULL, NULL,
        CASE WHEN n.charge IS NULL THEN toll.unheld('overage') END,
        0, 0, 0, 0, 0, 0, 0, 0, 0, (n.charge IS NULL)::integer)::toll.rated_line ORDER BY n.place)
    INTO added
    FROM lines AS n;
    RETURN add_overage.lines || coalesce(added, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.add_overage(toll.rated_line[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.add_overage(toll.rated_line[]) IS
    'These lines, and a line of kind overage for what of each event, or of a session''s end, goes beyond the plan''s included quantity in the calendar month of the'
    ' account''s time zone; counts it (toll.plan_usage) and raises quota alerts. Of a session whose corrected end moves over that of the trial, what it was charged is'
    ' taken back and charged anew, for the trial to waive or not. The accounts are locked (toll.lock_schemes)';

CREATE OR REPLACE FUNCTION toll.waive_trials(lines toll.rated_line[], locked text[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    result toll.rated_line[];
BEGIN
    WITH l AS MATERIALIZED (
        SELECT u.* FROM unnest(waive_trials.lines) WITH ORDINALITY AS u
    ), returned AS MATERIALIZED (
        -- By corrections, before any line here takes of it. Of an earlier trial there may be more than this one used.
        SELECT l.account_id, sum(l.waived) AS waived FROM l WHERE l.waived < 0 AND l.account_id IS NOT NULL GROUP BY l.account_id
    ), trials AS MATERIALIZED (
        SELECT a.account_id, a.ctid AS spot, a.trial_ends_at, a.trial_used, greatest(a.trial_used + coalesce(r.waived, 0), 0) AS used, a.trial_allowance
        FROM public.accounts AS a
        LEFT JOIN returned AS r ON r.account_id = a.account_id
        WHERE a.account_id = ANY (waive_trials.locked) -- no other one has an allowance left, whoever gives it back now
    ), covered AS MATERIALIZED (
        -- Whole charges, and what corrections add to others.
        SELECT l.ordinality, l.account_id, greatest(least(l.charge, t.trial_allowance - t.used - sum(l.charge) OVER w + l.charge), 0) AS waived
        FROM l
        JOIN trials AS t ON t.account_id = l.account_id AND l.occurred_at < t.trial_ends_at
        WHERE l.charge > 0
        WINDOW w AS (PARTITION BY l.account_id ORDER BY l.place ROWS UNBOUNDED PRECEDING)
    ), used AS (
        UPDATE public.accounts AS a SET trial_used = n.used
        FROM (SELECT t.spot, t.trial_used, t.used + coalesce(sum(c.waived), 0) AS used
              FROM trials AS t LEFT JOIN covered AS c ON c.account_id = t.account_id
              GROUP BY t.spot, t.trial_used, t.used) AS n
        WHERE a.ctid = n.spot AND n.used <> n.trial_used -- it is locked, so it stays there
    )
    SELECT array_agg(ROW(
        l.place, l.event_id, l.occurred_at, l.session_id, l.account_id, l.business_id, l.component, l.provider, l.model, l.variant, l.quantities,
        l.cost_original, l.cost_currency, l.cost, l.charge, l.waived + coalesce(c.waived, 0), l.currency, l.cost_price_ids, l.charge_price_ids, l.kind,
        l.reason, l.closed_until, l.scope_plan,
        -- Of all minutes of the call: those that it was debited before are given back, in part, too.
        CASE WHEN c.waived > 0 AND l.minutes IS NOT NULL
             THEN (SELECT l.minutes - toll.minutes_due(s.billed_minutes, e.charge + l.charge, e.waived + l.waived)
                          + toll.minutes_due(s.billed_minutes, e.charge + l.charge, e.waived + l.waived + c.waived)
                   FROM toll.rated_sessions AS s
                   CROSS JOIN LATERAL (SELECT coalesce(sum(k.charge), 0) AS charge, coalesce(sum(k.waived), 0) AS waived
                                       FROM (SELECT b.charge, b.waived FROM public.billing_charges AS b
                                             WHERE b.session_id = s.session_id AND b.component = 'tariff'
                                             UNION ALL
                                             SELECT o.charge, o.waived FROM l AS o
                                             WHERE o.session_id = s.session_id AND o.component = 'tariff' AND o.place < l.place) AS k OFFSET 0) AS e
                   WHERE s.session_id = l.session_id)
             ELSE l.minutes END,
        l.cost_missing, l.charge_missing, l.events, l.sessions,
        l.input_tokens, l.cached_input_tokens, l.output_tokens, l.characters, l.audio_us, l.quantity, l.unrated_cost, l.unrated_charge)::toll.rated_line
        ORDER BY l.place)
    INTO result
    FROM l LEFT JOIN covered AS c ON c.ordinality = l.ordinality;
    RETURN coalesce(result, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.waive_trials(toll.rated_line[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.waive_trials(toll.rated_line[], text[]) IS
    'These lines with what trials waive of them, in their order, as long as the allowance lasts; the line that exhausts it is split, and so are the minutes that a wallet is debited for it. Usage before the trial''s end'
    ' only. What a correction adds is waived like a charge of its own. What it takes back of a waived part is allowance again, for these and later lines;'
    ' what was charged before stays charged. So accounts.trial_used is the sum of what is waived, as long as'
    ' toll.start_trial began no other trial. locked: what toll.lock_schemes returned; no others'' lines are changed';

-- Else one absurd price, or one account that owes more than a wallet can say, would end the transaction, and rating with it.
CREATE OR REPLACE FUNCTION toll.spare_wallets(lines toll.rated_line[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    full_ones text[];
    line      toll.rated_line;
    result    toll.rated_line[] := '{}';
BEGIN
    SELECT array_agg(b.user_id) INTO full_ones
    FROM (SELECT l.account_id, l.currency, sum(l.charge - l.waived) AS due
          FROM unnest(spare_wallets.lines) AS l
          WHERE l.minutes IS NULL AND l.charge > l.waived GROUP BY l.account_id, l.currency) AS d
    CROSS JOIN LATERAL (SELECT k.user_id, k.balance FROM public.customer_balance AS k
                        WHERE k.user_id = d.account_id AND k.currency = d.currency OFFSET 0) AS b
    WHERE d.due >= 99999999999 OR b.balance - d.due <= -99999999999;
    IF full_ones IS NULL THEN
        RETURN spare_wallets.lines;
    END IF;
    RAISE WARNING 'toll: the wallets of % would owe 100000000000 or more: what they are charged is unrated, see unrated_events', full_ones;
    FOREACH line IN ARRAY spare_wallets.lines LOOP
        -- Corrections are differences to lines that are there: of those nothing can be left out.
        IF line.account_id = ANY (full_ones) AND line.minutes IS NULL AND line.charge > line.waived
           AND (line.kind IN ('usage', 'overage') AND line.event_id IS NOT NULL OR line.kind = 'tariff' AND line.reason IS NULL) THEN
            IF line.kind = 'tariff' THEN
                UPDATE toll.rated_sessions AS r SET billed_amount = NULL, tariff_snapshot = NULL WHERE r.session_id = line.session_id;
            END IF;
            line.charge_missing := CASE line.kind WHEN 'overage' THEN 'overage' ELSE line.component END
                || ': with it the wallet would owe 100000000000 or more: is the price right, and the quantity?';
            IF line.waived > 0 THEN
                UPDATE public.accounts AS a SET trial_used = a.trial_used - line.waived WHERE a.account_id = line.account_id;
            END IF;
            line.charge := NULL;
            line.waived := 0;
            line.charge_price_ids := NULL;
            line.unrated_charge := line.unrated_charge + 1;
            IF line.cost IS NULL AND line.quantities IN ('{}', '{"minutes": 0}') THEN
                line.kind := NULL; -- tried again in vain: no line that says nothing
            END IF;
        END IF;
        result := result || line;
    END LOOP;
    RETURN result;
END $$;
REVOKE ALL ON FUNCTION toll.spare_wallets(toll.rated_line[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.spare_wallets(toll.rated_line[]) IS
    'These lines, with the charges unrated of those accounts whose wallet has no digits for them (eleven before the point); toll.rate_unrated() tries them again.'
    ' Warns of them';
