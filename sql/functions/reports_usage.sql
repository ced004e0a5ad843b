-- Reports over days and hours: revenue from billed minutes, and what a business used. They read what toll.sum_usage() has summed, and from there on quarters of
-- an hour: in one snapshot, for these functions are STABLE.

-- The time at which a bucket starts, as ISO 8601 with the zone's offset at that time.
CREATE OR REPLACE FUNCTION toll.local_time(at timestamptz, zone text)
RETURNS text
LANGUAGE sql
STABLE PARALLEL SAFE
RETURN to_char(at AT TIME ZONE zone, 'YYYY-MM-DD"T"HH24:MI:SS')
    || CASE WHEN at AT TIME ZONE zone < at AT TIME ZONE 'UTC' THEN '-' ELSE '+' END
    || to_char(greatest((at AT TIME ZONE zone) - (at AT TIME ZONE 'UTC'), (at AT TIME ZONE 'UTC') - (at AT TIME ZONE zone)), 'HH24:MI');
COMMENT ON FUNCTION toll.local_time(timestamptz, text) IS 'A time in a time zone, as ISO 8601 with its offset there: 2026-03-29T03:00:00+02:00';

-- Where clocks are put back across midnight (Azores, Havana) a day's first hour comes twice; AT TIME ZONE takes the second one.
CREATE OR REPLACE FUNCTION toll.local_start(local timestamp, zone text)
RETURNS timestamptz
LANGUAGE sql
STABLE PARALLEL SAFE
RETURN local AT TIME ZONE zone
    - CASE WHEN ((local AT TIME ZONE zone) - interval '1 hour') AT TIME ZONE zone = local THEN interval '1 hour' ELSE interval '0' END;
COMMENT ON FUNCTION toll.local_start(timestamp, text) IS
    'When clocks of this zone first show this time; where they are put on beyond it, when that happens. Days and months begin then, and end where the next ones begin';

CREATE OR REPLACE FUNCTION public.revenue_minutes(from_date timestamp, to_date timestamp, group_by text, currency text DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' -- below it is the reports' zone, in which JSON has times; at the end it is the session's again
SET plan_cache_mode = force_custom_plan -- a kept plan would copy starts, 70 kB for a year's hours, for each quarter
SET jit = off
AS $$
DECLARE
    zone   text := (SELECT s.default_time_zone FROM toll.rating_settings s);
    since  timestamptz := toll.local_start(from_date, zone);
    before timestamptz := toll.local_start(to_date, zone);
    summed timestamptz := (SELECT s.until FROM toll.usage_summed s);
    starts timestamptz[]; -- of the hours or days
    known  text := currency;
    mixed  boolean;
    answer jsonb;
    found_currencies text;
BEGIN
    IF from_date IS NULL OR to_date IS NULL OR NOT isfinite(from_date) OR NOT isfinite(to_date) THEN
        RETURN toll.report_error('from_date and to_date must both be given');
    ELSIF group_by IS NULL OR group_by NOT IN ('hour', 'day') THEN
        RETURN toll.report_error(format('group_by is %s: it must be ''hour'' or ''day''', coalesce(quote_literal(group_by), 'NULL')));
    ELSIF from_date > to_date THEN
        RETURN toll.report_error(format('from_date %s is after to_date %s', from_date, to_date));
    ELSIF from_date <> date_bin('15 minutes', from_date, '2000-01-01') OR to_date <> date_bin('15 minutes', to_date, '2000-01-01') THEN
        RETURN toll.report_error('from_date and to_date must be on a quarter of an hour');
    ELSIF to_date - from_date > (CASE group_by WHEN 'hour' THEN interval '400 days' ELSE interval '4000 days' END) THEN
        RETURN toll.report_error(format('from %s to %s is too long: at most 400 days by the hour, 4000 by the day', from_date, to_date));
    END IF;

    starts := CASE group_by
        WHEN 'day' THEN ARRAY(
            SELECT DISTINCT toll.local_start(day, zone)
            FROM generate_series(date_trunc('day', from_date), to_date - interval '1 microsecond', interval '1 day') AS day ORDER BY 1)
        ELSE CASE (SELECT count(DISTINCT date_part('minute', noon AT TIME ZONE zone))
                   FROM generate_series(date_trunc('day', since) - interval '12 hours', before + interval '24 hours', interval '24 hours') AS noon)
            WHEN 1 THEN ARRAY(
                SELECT hour FROM generate_series(date_trunc('hour', since, zone), before - interval '1 microsecond', interval '1 hour') AS hour)
            -- Where clocks are put on or back by half an hour, half hours find every one.
            ELSE ARRAY(
                SELECT DISTINCT date_trunc('hour', half, zone)
                FROM generate_series(since, before - interval '1 microsecond', interval '30 minutes') AS half ORDER BY 1) END END;
    IF known IS NULL THEN
        known := coalesce((SELECT t.currency FROM toll.tariff_quarters t WHERE t.quarter >= since AND t.quarter < before ORDER BY t.quarter LIMIT 1),
                          (SELECT u.currency FROM toll.usage_rollup u
                           WHERE u.component = 'tariff' AND u.quarter >= greatest(since, summed) AND u.quarter < before ORDER BY u.quarter LIMIT 1), '');
    END IF;
    PERFORM set_config('timezone', zone, true);
    WITH ended AS (
        SELECT width_bucket(q.quarter, starts) AS period, sum(q.quantity) AS minutes,
               sum(q.charge) - coalesce(sum(q.waived) FILTER (WHERE q.waived <> 0), 0) AS revenue,
               sum(q.sessions) AS sessions, sum(q.unrated_charge) FILTER (WHERE q.unrated_charge <> 0) AS unrated, bool_or(q.currency <> known) AS mixed
        FROM (SELECT t.quarter, t.currency, t.quantity, t.charge, t.waived, t.sessions, t.unrated_charge
              FROM toll.tariff_quarters t
              WHERE t.quarter >= since AND t.quarter < before
              UNION ALL
              SELECT u.quarter, u.currency, u.quantity, u.charge, u.waived, u.sessions, u.unrated_charge
              FROM toll.usage_rollup u
              WHERE u.component = 'tariff' AND u.quarter >= greatest(since, summed) AND u.quarter < before) AS q
        WHERE revenue_minutes.currency IS NULL OR q.currency = revenue_minutes.currency
        GROUP BY 1
    ), buckets AS (
        SELECT b.period_start, trim_scale(coalesce(e.minutes, 0)) AS total_minutes,
               CASE WHEN coalesce(e.unrated, 0) = 0 THEN trim_scale(coalesce(e.revenue, 0)) END AS total_revenue, coalesce(e.sessions, 0) AS sessions_count
        FROM unnest(starts) WITH ORDINALITY AS b (period_start, period)
        LEFT JOIN ended e ON e.period = b.period
        ORDER BY b.period
    )
    SELECT (SELECT bool_or(e.mixed) FROM ended e),
           jsonb_build_object(
               'grouping', revenue_minutes.group_by,
               'buckets', coalesce(array_agg(b), '{}'), -- jsonb_agg() would make each a jsonb of its own first, and then copy all of them
               'totals', jsonb_build_object(
                   'total_minutes', trim_scale(coalesce(sum(b.total_minutes), 0)),
                   'total_revenue', CASE WHEN count(b.total_revenue) = count(*) THEN trim_scale(coalesce(sum(b.total_revenue), 0)) END,
                   'sessions_count', coalesce(sum(b.sessions_count), 0)))
    INTO mixed, answer
    FROM buckets b;
    IF mixed THEN
        -- Several, unless in each period the sessions of all but one cancel out.
        SELECT string_agg(DISTINCT e.currency, ' and ') INTO found_currencies
        FROM (SELECT q.currency
              FROM (SELECT t.quarter, t.currency, t.sessions FROM toll.tariff_quarters t WHERE t.quarter >= since AND t.quarter < before
                    UNION ALL
                    SELECT u.quarter, u.currency, u.sessions FROM toll.usage_rollup u
                    WHERE u.component = 'tariff' AND u.quarter >= greatest(since, summed) AND u.quarter < before) AS q
              GROUP BY width_bucket(q.quarter, starts), q.currency
              HAVING sum(q.sessions) <> 0) AS e;
    END IF;
    IF found_currencies LIKE '% and %' THEN
        RETURN toll.report_error(format('revenue is in %s, which don''t add up: name one currency as fourth argument', found_currencies));
    END IF;
    RETURN answer;
END $$;
COMMENT ON FUNCTION public.revenue_minutes(timestamp, timestamp, text, text) IS
    'Revenue from sessions that minute tariffs bill, by the time they ended: {"grouping", "buckets": [{"period_start", "total_minutes",'
    ' "total_revenue", "sessions_count"}], "totals": {"total_minutes", "total_revenue", "sessions_count"}}. From from_date up to but not at to_date,'
    ' local times of toll.rating_settings.default_time_zone on quarters of an hour; group_by hour or day, of that zone, every one listed.'
    ' total_minutes are billed minutes, total_revenue what they cost without what trials waive, in the one currency there is or that is named as'
    ' fourth argument; exact; null: a tariff has no price (unrated_sessions). {"success": false, "error"}: from after to, an unknown group_by, a time'
    ' off the quarter, more than 400 days by the hour or 4000 by the day, several currencies';

CREATE OR REPLACE FUNCTION toll.business_usage(business text, unit text, zone text, first_day date, last_day date)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    since  timestamptz := toll.local_start(first_day, zone);
    before timestamptz := toll.local_start(last_day + 1, zone);
    -- NULL: its days are not summed, or of another time zone.
    summed timestamptz := (SELECT s.until FROM toll.usage_summed s
                           WHERE EXISTS (SELECT FROM toll.business_zones z WHERE z.business_id = business AND z.time_zone = zone));
    answer jsonb;
BEGIN
    WITH used AS (
        SELECT r.account_id, r.meter, r.derived, date_trunc(unit, r.day::timestamp)::date AS day, sum(r.events) AS events, sum(r.quantity) AS quantity
        FROM (SELECT d.account_id, d.day, d.meter, d.derived, d.events, d.quantity
              FROM toll.usage_days d
              WHERE d.business_id = business AND d.day BETWEEN first_day AND last_day AND summed IS NOT NULL
              UNION ALL
              SELECT q.account_id, (q.quarter AT TIME ZONE zone)::date, q.meter, q.derived, q.events, q.quantity
              FROM toll.quarter_meters q
              WHERE q.business_id = business AND q.quarter >= greatest(since, summed) AND q.quarter < before
              UNION ALL
              -- What names no business counts as its account's own.
              SELECT q.account_id, (q.quarter AT TIME ZONE zone)::date, q.meter, q.derived, q.events, q.quantity
              FROM toll.quarter_meters q
              WHERE q.account_id = business AND q.business_id = '' AND q.quarter >= greatest(since, summed) AND q.quarter < before) AS r
        WHERE r.meter IN ('api_call', 'voice_minute', 'ai_query', 'storage_mb')
        GROUP BY 1, 2, 3, 4
    ), counted AS (
        SELECT c.*, bool_or(NOT c.derived AND c.events > 0) OVER (PARTITION BY c.meter) AS reported
        FROM used c
    ), priced AS (
        SELECT c.meter, c.day, c.quantity,
               CASE WHEN c.quantity = 0 THEN 0
                    WHEN min(a.currency) OVER () = max(a.currency) OVER () THEN c.quantity * p.overage_price_cents * 0.01 END AS cost
        FROM counted c
        LEFT JOIN public.accounts a ON a.account_id = c.account_id
        LEFT JOIN public.usage_quotas p ON p.plan_id = a.plan_id AND p.event_type = c.meter
        WHERE c.derived <> c.reported
    ), meters AS (
        SELECT m.meter, coalesce(sum(p.quantity), 0) AS quantity,
               CASE WHEN count(p.cost) = count(p.meter) THEN coalesce(sum(p.cost), 0) END AS cost
        FROM unnest(ARRAY['api_call', 'voice_minute', 'ai_query', 'storage_mb']) AS m (meter)
        LEFT JOIN priced p ON p.meter = m.meter
        GROUP BY m.meter
    ), trends AS (
        SELECT b.day::date AS day, coalesce(sum(p.quantity) FILTER (WHERE p.meter = 'api_call'), 0) AS api_calls,
               coalesce(sum(p.quantity) FILTER (WHERE p.meter = 'voice_minute'), 0) AS voice_minutes,
               CASE WHEN count(p.cost) = count(p.meter) THEN coalesce(sum(p.cost), 0) END AS cost
        FROM generate_series(date_trunc(unit, first_day::timestamp), last_day::timestamp, ('1 ' || unit)::interval) AS b (day)
        LEFT JOIN priced p ON p.day = b.day::date
        GROUP BY b.day
    )
    SELECT jsonb_build_object(
        'billingUsage', (
            SELECT jsonb_build_object(
                'apiCalls', trim_scale(sum(m.quantity) FILTER (WHERE m.meter = 'api_call')),
                'minutesUsed', trim_scale(sum(m.quantity) FILTER (WHERE m.meter = 'voice_minute')),
                'cost', CASE WHEN count(m.cost) = count(*) THEN trim_scale(sum(m.cost)) END,
                'breakdown', jsonb_object_agg(
                    CASE m.meter WHEN 'api_call' THEN 'apiCalls' WHEN 'voice_minute' THEN 'voiceMinutes' WHEN 'ai_query' THEN 'aiQueries'
                                 ELSE 'storage' END,
                    jsonb_build_object('count', trim_scale(m.quantity), 'cost', trim_scale(m.cost))))
            FROM meters m),
        'trends', coalesce((
            SELECT jsonb_agg(jsonb_build_object('date', t.day, 'apiCalls', trim_scale(t.api_calls), 'voiceMinutes', trim_scale(t.voice_minutes),
                                                'cost', trim_scale(t.cost)) ORDER BY t.day)
            FROM trends t), '[]'))
    INTO answer;
    RETURN answer;
END $$;
REVOKE ALL ON FUNCTION toll.business_usage(text, text, text, date, date) FROM PUBLIC;
COMMENT ON FUNCTION toll.business_usage(text, text, text, date, date) IS
    'The data of billing_analytics(): what a business used from first_day to last_day, both included, in days of a time zone, in trends by unit'
    ' (day, week from Monday, month)';

CREATE OR REPLACE FUNCTION public.billing_analytics(business_id text, period text, days integer)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    unit  text := CASE billing_analytics.period WHEN 'daily' THEN 'day' WHEN 'weekly' THEN 'week' WHEN 'monthly' THEN 'month'
                                                ELSE billing_analytics.period END;
    zone  text := coalesce((SELECT a.time_zone FROM public.accounts a WHERE a.account_id = billing_analytics.business_id),
                           (SELECT s.default_time_zone FROM toll.rating_settings s));
    today date := (now() AT TIME ZONE zone)::date;
BEGIN
    IF unit IS NULL OR unit NOT IN ('day', 'week', 'month') THEN
        RETURN toll.report_error(format('period is %s: it must be ''day'', ''week'' or ''month''', coalesce(quote_literal(billing_analytics.period), 'NULL')));
    ELSIF billing_analytics.days IS NULL OR billing_analytics.days NOT BETWEEN 1 AND 4000 THEN
        RETURN toll.report_error(format('days is %s: it must be from 1 to 4000', coalesce(billing_analytics.days::text, 'NULL')));
    ELSIF NOT coalesce(
        EXISTS (SELECT FROM public.accounts a WHERE a.account_id = billing_analytics.business_id)
        OR EXISTS (SELECT FROM toll.usage_rollup u WHERE u.business_id = billing_analytics.business_id AND u.business_id <> ''), false) THEN
        RETURN toll.report_error(format('no such business: %s', coalesce(quote_literal(billing_analytics.business_id), 'NULL')));
    END IF;
    RETURN jsonb_build_object('success', true, 'data',
                              toll.business_usage(billing_analytics.business_id, unit, zone, today - billing_analytics.days + 1, today));
END $$;
COMMENT ON FUNCTION public.billing_analytics(text, text, integer) IS
    'What a business used in the last so many days, today included: {"success": true, "data": {"billingUsage": {"apiCalls", "minutesUsed", "cost",'
    ' "breakdown": {"apiCalls": {"count", "cost"}, "voiceMinutes", "aiQueries", "storage"}}, "trends": [{"date", "apiCalls", "voiceMinutes",'
    ' "cost"}]}}. period is what trends are cut into: day, week (from Monday) or month (also daily, weekly, monthly); date is its first day, every'
    ' one is listed, the first may be cut short. Days are those of the time zone of the account of that id, else of toll.rating_settings. API calls'
    ' and voice minutes are counted from calls (one per llm event, duration / 60 per ended voice session) where the business reported none in these'
    ' days. cost is quantity x unit price of the account''s plan for every unit, included or not, in units of the account''s currency, exact; it is'
    ' the sum of the breakdown and of the trends; null: a price is not known, or accounts of several currencies. {"success": false, "error"}: no'
    ' such business, an unknown period, days not from 1 to 4000';
