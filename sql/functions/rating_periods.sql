-- Months that are closed: what comes later is booked after them, and keeps its time.

CREATE OR REPLACE FUNCTION toll.rating_begins()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Each statement is to see what was committed before the locks of this transaction were granted.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'toll: rating needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('toll.periods', 0));
END $$;
REVOKE ALL ON FUNCTION toll.rating_begins() FROM PUBLIC;
COMMENT ON FUNCTION toll.rating_begins() IS
    'First in each transaction that rates: no period is closed until it ends. Error: the transaction is not READ COMMITTED';

CREATE OR REPLACE FUNCTION toll.close_period(account text, period date)
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    payer  public.accounts;
    starts timestamptz;
    ends   timestamptz;
    grace  interval := (SELECT s.close_grace FROM toll.rating_settings AS s);
BEGIN
    -- Waits for what is being rated: its lines count in the period.
    PERFORM pg_advisory_xact_lock(hashtextextended('toll.periods', 0));
    SELECT * INTO payer FROM public.accounts AS a WHERE a.account_id = close_period.account FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'toll: there is no account %', account USING ERRCODE = 'invalid_parameter_value';
    ELSIF period IS NULL OR period <> date_trunc('month', period)::date THEN
        RAISE EXCEPTION 'toll: % is not the first day of a month', period USING ERRCODE = 'invalid_parameter_value';
    END IF;
    starts := toll.local_start(period, payer.time_zone);
    ends := toll.local_start(period + interval '1 month', payer.time_zone);
    IF ends <= payer.closed_until THEN
        RAISE EXCEPTION 'toll: % of account % is closed already', to_char(period, 'YYYY-MM'), account USING ERRCODE = 'invalid_parameter_value';
    ELSIF now() < ends + grace THEN
        RAISE EXCEPTION 'toll: % of account % may be closed from % on', to_char(period, 'YYYY-MM'), account, ends + grace
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF payer.closed_until < starts
          OR EXISTS (SELECT FROM toll.usage_rollup AS u
                     WHERE u.account_id = close_period.account AND u.quarter < starts AND u.quarter >= coalesce(payer.closed_until, '-infinity')) THEN
        RAISE EXCEPTION 'toll: account % has an earlier month that is not closed', account USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO toll.closed_periods (account_id, period) VALUES (close_period.account, close_period.period);
    UPDATE public.accounts AS a SET closed_until = ends WHERE a.account_id = close_period.account;
    RETURN ends;
END $$;
REVOKE ALL ON FUNCTION toll.close_period(text, date) FROM PUBLIC;
COMMENT ON FUNCTION toll.close_period(text, date) IS
    'Closes a calendar month (its first day) of the account''s time zone, and returns its end: from now on nothing is booked before then, later lines of earlier'
    ' usage are booked now and keep their occurred_at. Errors: unknown account; no first day of a month; closed already; earlier than its end and the grace'
    ' (toll.rating_settings.close_grace); an earlier month is open. Waits for what is being rated';
