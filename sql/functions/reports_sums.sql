-- Sums of roll-ups for reports over long times: toll.usage_days, toll.tariff_quarters and toll.latency_days. tolld has them made when quarters of an hour are over for
-- some time (toll.sum_usage), away from rating's path; reports add the quarters from toll.usage_summed.until on, so that their figures are exact at any
-- moment, also where nobody ever called it. What comes late, for quarters before, is added here as it comes (toll.keep_meter_months, toll.count_latencies).

-- Expressions only and without SET, so that the planner puts them in the place of the call.
CREATE OR REPLACE FUNCTION toll.meter_name(component text, model text)
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN CASE component WHEN 'llm' THEN 'api_call' WHEN 'session' THEN 'voice_minute' ELSE model END;
COMMENT ON FUNCTION toll.meter_name(text, text) IS
    'The meter that usage counts for, by component and model of toll.usage_rollup: an llm event is an api_call, a session voice_minute, else what a usage frame'
    ' calls it';

CREATE OR REPLACE FUNCTION toll.business_name(business_id text, account_id text)
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN CASE business_id WHEN '' THEN account_id ELSE business_id END;
COMMENT ON FUNCTION toll.business_name(text, text) IS 'Whom usage counts for, by toll.usage_rollup: what names no business counts as its account''s own';

-- Each business that has a quarter before toll.usage_summed.until has its time zone here, and all of them in toll.usage_days.
CREATE OR REPLACE FUNCTION toll.add_usage_days(gained toll.usage_rollup[], lost toll.usage_rollup[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
BEGIN
    INSERT INTO toll.business_zones (business_id, time_zone)
    SELECT b.business_id, coalesce(a.time_zone, s.default_time_zone)
    FROM (SELECT DISTINCT toll.business_name(c.business_id, c.account_id) AS business_id
          FROM unnest(add_usage_days.gained || add_usage_days.lost) AS c
          WHERE c.component IN ('llm', 'session', 'meter', 'telephony')) AS b
    CROSS JOIN toll.rating_settings AS s
    LEFT JOIN LATERAL (SELECT k.time_zone FROM public.accounts AS k WHERE k.account_id = b.business_id OFFSET 0) AS a ON true
    WHERE b.business_id <> ''
    ON CONFLICT (business_id) DO NOTHING;

    INSERT INTO toll.usage_days AS d (business_id, day, account_id, meter, derived, events, quantity)
    SELECT z.business_id, (c.quarter AT TIME ZONE z.time_zone)::date, c.account_id, toll.meter_name(c.component, c.model),
           c.component IN ('llm', 'session'), sum(c.sign * CASE c.component WHEN 'session' THEN c.sessions ELSE c.events END),
           sum(c.sign * CASE c.component WHEN 'llm' THEN c.events ELSE c.quantity END)
    FROM (SELECT 1 AS sign, g.* FROM unnest(add_usage_days.gained) AS g
          UNION ALL SELECT -1, l.* FROM unnest(add_usage_days.lost) AS l) AS c
    -- OFFSET 0: by its key, whatever the planner thinks of the table.
    CROSS JOIN LATERAL (SELECT k.business_id, k.time_zone FROM toll.business_zones AS k
                        WHERE k.business_id = toll.business_name(c.business_id, c.account_id) OFFSET 0) AS z
    WHERE c.component IN ('llm', 'session', 'meter', 'telephony')
    GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT (business_id, day, account_id, meter, derived)
        DO UPDATE SET events = d.events + excluded.events, quantity = d.quantity + excluded.quantity;
END $$;
REVOKE ALL ON FUNCTION toll.add_usage_days(toll.usage_rollup[], toll.usage_rollup[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.add_usage_days(toll.usage_rollup[], toll.usage_rollup[]) IS
    'Adds rows that toll.usage_rollup gained to toll.usage_days, takes rows that it lost from it: of quarters before toll.usage_summed.until, with the lock of'
    ' toll.keep_meter_months() held';

CREATE OR REPLACE FUNCTION toll.add_tariff_quarters(gained toll.usage_rollup[], lost toll.usage_rollup[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
BEGIN
    INSERT INTO toll.tariff_quarters AS t (quarter, currency, sessions, quantity, charge, waived, unrated_charge)
    SELECT c.quarter, c.currency, sum(c.sign * c.sessions), sum(c.sign * c.quantity), sum(c.sign * c.charge), sum(c.sign * c.waived),
           sum(c.sign * c.unrated_charge)
    FROM (SELECT 1 AS sign, g.* FROM unnest(add_tariff_quarters.gained) AS g
          UNION ALL SELECT -1, l.* FROM unnest(add_tariff_quarters.lost) AS l) AS c
    WHERE c.component = 'tariff'
    GROUP BY 1, 2
    ON CONFLICT (quarter, currency)
        DO UPDATE SET sessions = t.sessions + excluded.sessions, quantity = t.quantity + excluded.quantity, charge = t.charge + excluded.charge,
                      waived = t.waived + excluded.waived, unrated_charge = t.unrated_charge + excluded.unrated_charge;
END $$;
REVOKE ALL ON FUNCTION toll.add_tariff_quarters(toll.usage_rollup[], toll.usage_rollup[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.add_tariff_quarters(toll.usage_rollup[], toll.usage_rollup[]) IS 'The same for toll.tariff_quarters';

DROP FUNCTION IF EXISTS toll.add_latency_days(toll.latency_rollup[], integer);
CREATE OR REPLACE FUNCTION toll.add_latency_days(counted toll.latency_rollup[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
BEGIN
    INSERT INTO toll.latency_days AS d (day, component, provider, model, metric, bucket, events)
    SELECT (c.quarter AT TIME ZONE 'UTC')::date, c.component, c.provider, c.model, c.metric, c.bucket, sum(c.events)
    FROM unnest(add_latency_days.counted) AS c
    GROUP BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (day, component, provider, model, metric, bucket) DO UPDATE SET events = d.events + excluded.events;
END $$;
REVOKE ALL ON FUNCTION toll.add_latency_days(toll.latency_rollup[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.add_latency_days(toll.latency_rollup[]) IS
    'The same for toll.latency_days, where nothing is ever taken away';

-- As they were when triggers on toll.latency_rollup did the following.
DROP TRIGGER IF EXISTS latency_days_insert ON toll.latency_rollup;
DROP TRIGGER IF EXISTS latency_days_update ON toll.latency_rollup;
DROP TRIGGER IF EXISTS latency_days_delete ON toll.latency_rollup;
DROP FUNCTION IF EXISTS toll.keep_latency_days();

-- Nobody else writes toll.latency_rollup. The lock is that of toll.keep_meter_months(), which rating holds by then.
CREATE OR REPLACE FUNCTION toll.count_latencies(counted toll.latency_rollup[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
BEGIN
    IF count_latencies.counted = '{}' THEN
        RETURN; -- without the lock: rating has it where there were events, and else comes here with wallets locked, which others lock after it
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('toll.meter_months', 0));
    INSERT INTO toll.latency_rollup AS r (quarter, component, provider, model, metric, bucket, events)
    SELECT n.* FROM unnest(count_latencies.counted) AS n ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (quarter, component, provider, model, metric, bucket) DO UPDATE SET events = r.events + excluded.events;
    IF EXISTS (SELECT FROM unnest(count_latencies.counted) AS n WHERE n.quarter < (SELECT s.until FROM toll.usage_summed AS s)) THEN -- late
        PERFORM toll.add_latency_days(ARRAY(
            SELECT n FROM unnest(count_latencies.counted) AS n WHERE n.quarter < (SELECT s.until FROM toll.usage_summed AS s)));
    END IF;
END $$;
REVOKE ALL ON FUNCTION toll.count_latencies(toll.latency_rollup[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.count_latencies(toll.latency_rollup[]) IS
    'For rating: adds these to toll.latency_rollup, and late ones to toll.latency_days. Takes the lock of toll.keep_meter_months(), until the transaction ends';

CREATE OR REPLACE FUNCTION toll.sum_usage(older_than interval)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER -- nobody else writes these
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    together CONSTANT integer := 20000; -- rating waits meanwhile: some 0.2 s
    since    timestamptz;
    before   timestamptz := date_bin('15 minutes', now() - older_than, '2000-01-01 00:00:00+00');
    first_at timestamptz;
    next_at  timestamptz;
    sums     toll.usage_rollup[];
    summed   bigint := 0;
    business record;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'toll: sum_usage needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    ELSIF NOT pg_try_advisory_xact_lock(hashtextextended('toll.meter_months', 0)) THEN
        RETURN 0; -- rating is at it: another time
    END IF;
    -- Whoever had the lock before has committed, and each statement sees that.
    since := (SELECT s.until FROM toll.usage_summed AS s);
    first_at := (SELECT u.quarter FROM toll.usage_rollup AS u WHERE u.quarter >= since AND u.quarter < before ORDER BY u.quarter LIMIT 1);
    next_at := (SELECT u.quarter FROM toll.usage_rollup AS u WHERE u.quarter >= since AND u.quarter < before
                ORDER BY u.quarter OFFSET together LIMIT 1);
    -- Whole quarters, one at least.
    next_at := CASE WHEN next_at > first_at THEN next_at ELSE next_at + interval '15 minutes' END;
    before := least(before, next_at, first_at + interval '1 day');
    IF before > since THEN
        sums := ARRAY(SELECT u FROM toll.usage_rollup AS u WHERE u.quarter >= since AND u.quarter < before);
        PERFORM toll.add_usage_days(sums, '{}');
        PERFORM toll.add_tariff_quarters(sums, '{}');
        PERFORM toll.add_latency_days(ARRAY(SELECT l FROM toll.latency_rollup AS l WHERE l.quarter >= since AND l.quarter < before));
        UPDATE toll.usage_summed SET until = before;
        since := before;
        summed := cardinality(sums);
    END IF;

    FOR business IN
        SELECT z.business_id, coalesce(a.time_zone, s.default_time_zone) AS time_zone
        FROM toll.business_zones AS z
        CROSS JOIN toll.rating_settings AS s
        LEFT JOIN public.accounts AS a ON a.account_id = z.business_id
        WHERE z.time_zone <> coalesce(a.time_zone, s.default_time_zone)
    LOOP
        EXIT WHEN summed >= together;
        sums := ARRAY(SELECT u FROM toll.usage_rollup AS u
                      WHERE u.quarter < since AND (u.business_id = business.business_id OR u.business_id = '' AND u.account_id = business.business_id));
        DELETE FROM toll.usage_days AS d WHERE d.business_id = business.business_id;
        UPDATE toll.business_zones AS z SET time_zone = business.time_zone WHERE z.business_id = business.business_id;
        PERFORM toll.add_usage_days(sums, '{}');
        summed := summed + cardinality(sums);
    END LOOP;
    RETURN summed;
END $$;
REVOKE ALL ON FUNCTION toll.sum_usage(interval) FROM PUBLIC;
COMMENT ON FUNCTION toll.sum_usage(interval) IS
    'For tolld, now and then: adds quarters of toll.usage_rollup and toll.latency_rollup that began as long ago to toll.usage_days, toll.tariff_quarters and'
    ' toll.latency_days: of those that are left the oldest, a day or some 20,000 rows at a time; and cuts the days of businesses anew whose time zone is another by'
    ' now. Reports say the same before and after. Returns how many rows of toll.usage_rollup it added; 0 also while rating writes some. In a transaction of its own.'
    ' Error: the transaction is not READ COMMITTED';
