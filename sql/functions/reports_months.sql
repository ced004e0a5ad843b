-- Keeps toll.meter_months beside toll.usage_rollup, in the statement that changes it.

-- One statement may fire this for rows it inserts and for rows it updates, and each time locks rows: the advisory lock keeps two transactions from
-- doing so in different orders. It is held from here to the commit, so write roll-ups late.
CREATE OR REPLACE FUNCTION toll.keep_meter_months()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP <> 'DELETE' THEN
        PERFORM FROM came LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL; -- INSERT ... ON CONFLICT fires both, whatever it did
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('toll.meter_months', 0));
    EXECUTE format($query$
        INSERT INTO toll.meter_months AS m (account_id, period_start, business_id, meter, derived, events, quantity)
        SELECT c.account_id, date_trunc('month', c.quarter AT TIME ZONE coalesce(a.time_zone, 'UTC'))::date, c.business_id,
               CASE c.component WHEN 'llm' THEN 'api_call' WHEN 'session' THEN 'voice_minute' ELSE c.model END,
               c.component IN ('llm', 'session'),
               sum(c.sign * CASE c.component WHEN 'session' THEN c.sessions ELSE c.events END),
               sum(c.sign * CASE c.component WHEN 'llm' THEN c.events ELSE c.quantity END)
        FROM (%s) AS c
        LEFT JOIN public.accounts a ON a.account_id = c.account_id
        WHERE c.component IN ('llm', 'session', 'meter', 'telephony')
        GROUP BY 1, 2, 3, 4, 5
        ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (account_id, period_start, business_id, meter, derived)
            DO UPDATE SET events = m.events + excluded.events, quantity = m.quantity + excluded.quantity$query$,
        concat_ws(' UNION ALL ', CASE WHEN TG_OP <> 'DELETE' THEN 'SELECT 1 AS sign, * FROM came' END,
                  CASE WHEN TG_OP <> 'INSERT' THEN 'SELECT -1 AS sign, * FROM went' END));
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION toll.keep_meter_months() FROM PUBLIC;
COMMENT ON FUNCTION toll.keep_meter_months() IS 'Trigger on toll.usage_rollup: adds rows that came to toll.meter_months, and takes rows that went from it';

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
