-- Keeps toll.meter_months, what toll.sum_usage() has summed, and who is above a quota, beside toll.usage_rollup, in the statement that changes it.

-- One statement may fire this for rows it inserts and for rows it updates, and each time locks rows: the advisory lock keeps two transactions from
-- doing so in different orders. It is held from here to the commit, so write roll-ups late.
CREATE OR REPLACE FUNCTION toll.keep_meter_months()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gained  toll.usage_rollup[] := '{}';
    lost    toll.usage_rollup[] := '{}';
    until   timestamptz;
    alerted text;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        PERFORM FROM came LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL; -- INSERT ... ON CONFLICT fires both, whatever it did
        END IF;
        gained := ARRAY(SELECT ROW(c.*)::toll.usage_rollup FROM came AS c WHERE c.component IN ('llm', 'session', 'meter', 'telephony', 'tariff'));
    END IF;
    IF TG_OP <> 'INSERT' THEN
        lost := ARRAY(SELECT ROW(w.*)::toll.usage_rollup FROM went AS w WHERE w.component IN ('llm', 'session', 'meter', 'telephony', 'tariff'));
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('toll.meter_months', 0));
    -- One statement, whose plan is kept, for whatever fired this.
    INSERT INTO toll.meter_months AS m (account_id, period_start, business_id, meter, derived, events, quantity)
    SELECT c.account_id, date_trunc('month', c.quarter AT TIME ZONE coalesce(a.time_zone, 'UTC'))::date, c.business_id, c.meter, c.derived,
           sum(c.events), sum(c.quantity)
    -- Summed up before the accounts are asked for their time zones: most rows come and go by twos.
    FROM (SELECT s.account_id, s.quarter, s.business_id, toll.meter_name(s.component, s.model) AS meter, s.component IN ('llm', 'session') AS derived,
                 sum(s.sign * CASE s.component WHEN 'session' THEN s.sessions ELSE s.events END) AS events,
                 sum(s.sign * CASE s.component WHEN 'llm' THEN s.events ELSE s.quantity END) AS quantity
          FROM (SELECT 1 AS sign, g.* FROM unnest(gained) AS g UNION ALL SELECT -1, l.* FROM unnest(lost) AS l) AS s
          WHERE s.component <> 'tariff'
          GROUP BY 1, 2, 3, 4, 5) AS c
    LEFT JOIN LATERAL (SELECT k.time_zone FROM public.accounts AS k WHERE k.account_id = c.account_id OFFSET 0) AS a ON true
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (account_id, period_start, business_id, meter, derived)
        DO UPDATE SET events = m.events + excluded.events, quantity = m.quantity + excluded.quantity;
    IF EXISTS (SELECT FROM unnest(gained) AS g WHERE g.quarter < (SELECT s.until FROM toll.usage_summed AS s))
       OR EXISTS (SELECT FROM unnest(lost) AS l WHERE l.quarter < (SELECT s.until FROM toll.usage_summed AS s)) THEN
        until := (SELECT s.until FROM toll.usage_summed AS s);
        PERFORM toll.add_usage_days(late.gained, late.lost), toll.add_tariff_quarters(late.gained, late.lost)
        FROM (SELECT ARRAY(SELECT g FROM unnest(gained) AS g WHERE g.quarter < until) AS gained,
                     ARRAY(SELECT l FROM unnest(lost) AS l WHERE l.quarter < until) AS lost) AS late;
    END IF;
    IF gained <> '{}' AND EXISTS (SELECT FROM public.usage_quotas AS q WHERE q.quota_limit IS NOT NULL) THEN
        -- What is charged by plan is counted, and its alerts raised, by toll.add_overage(). The lock above lets nobody raise one twice.
        FOR alerted IN
            INSERT INTO toll.quota_alerts AS t (account_id, period_start, event_type, quantity, quota_limit)
            SELECT c.account_id, c.period_start, c.meter, u.quantity, q.quota_limit
            FROM (SELECT DISTINCT n.account_id, date_trunc('month', n.quarter AT TIME ZONE a.time_zone)::date AS period_start, a.plan_id,
                         toll.meter_name(n.component, n.model) AS meter
                  FROM unnest(gained) AS n
                  CROSS JOIN LATERAL (SELECT k.time_zone, k.plan_id, k.charge_by FROM public.accounts AS k WHERE k.account_id = n.account_id OFFSET 0) AS a
                  WHERE n.component <> 'tariff' AND a.charge_by <> 'plan') AS c
            JOIN public.usage_quotas AS q ON q.plan_id = c.plan_id AND q.event_type = c.meter
            CROSS JOIN LATERAL (
                SELECT CASE WHEN bool_or(NOT m.derived AND m.events > 0) THEN sum(m.quantity) FILTER (WHERE NOT m.derived) ELSE sum(m.quantity) END AS quantity
                FROM toll.meter_months AS m
                WHERE m.account_id = c.account_id AND m.period_start = c.period_start AND m.meter = c.meter) AS u
            WHERE u.quantity > q.quota_limit
              AND NOT EXISTS (SELECT FROM toll.quota_alerts AS h
                              WHERE h.account_id = c.account_id AND h.period_start = c.period_start AND h.event_type = c.meter)
            RETURNING t.account_id
        LOOP
            PERFORM pg_notify('toll_quota', alerted);
        END LOOP;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION toll.keep_meter_months() FROM PUBLIC;
COMMENT ON FUNCTION toll.keep_meter_months() IS
    'Trigger on toll.usage_rollup: adds rows that came to toll.meter_months, and late ones to toll.usage_days and toll.tariff_quarters, takes rows that went from'
    ' them, and raises alerts of quotas (toll.quota_alerts) of accounts that are not charged by plan';

-- As they were when an update was two of them.
DROP TRIGGER IF EXISTS meter_months_update_new ON toll.usage_rollup;
DROP TRIGGER IF EXISTS meter_months_update_old ON toll.usage_rollup;
CREATE OR REPLACE TRIGGER meter_months_insert AFTER INSERT ON toll.usage_rollup
    REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION toll.keep_meter_months();
CREATE OR REPLACE TRIGGER meter_months_update AFTER UPDATE ON toll.usage_rollup
    REFERENCING OLD TABLE AS went NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION toll.keep_meter_months();
CREATE OR REPLACE TRIGGER meter_months_delete AFTER DELETE ON toll.usage_rollup
    REFERENCING OLD TABLE AS went FOR EACH STATEMENT EXECUTE FUNCTION toll.keep_meter_months();

-- Rating holds the account's row FOR SHARE while it writes roll-ups, so none of them is missed.
CREATE OR REPLACE FUNCTION toll.move_meter_months()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('toll.meter_months', 0));
    DELETE FROM toll.meter_months WHERE account_id = NEW.account_id;
    INSERT INTO toll.meter_months (account_id, period_start, business_id, meter, derived, events, quantity)
    SELECT NEW.account_id, date_trunc('month', q.quarter AT TIME ZONE NEW.time_zone)::date, q.business_id, q.meter, q.derived,
           sum(q.events), sum(q.quantity)
    FROM toll.quarter_meters q
    WHERE q.account_id = NEW.account_id
    GROUP BY 2, 3, 4, 5;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION toll.move_meter_months() FROM PUBLIC;
COMMENT ON FUNCTION toll.move_meter_months() IS 'Trigger on accounts: cuts the account''s toll.meter_months anew when its time zone changes';

CREATE OR REPLACE TRIGGER meter_months_time_zone AFTER UPDATE OF time_zone ON public.accounts
    FOR EACH ROW WHEN (old.time_zone IS DISTINCT FROM new.time_zone) EXECUTE FUNCTION toll.move_meter_months();
