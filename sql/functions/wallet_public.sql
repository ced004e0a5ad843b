-- Wallets as applications see them: opening, thresholds, balances, holds, history. Errors as in wallet_ledger.sql.

CREATE OR REPLACE FUNCTION public.create_wallet(user_id text, currency text DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account public.accounts;
    wallet  text;
    created boolean;
BEGIN
    SELECT * INTO account FROM public.accounts AS a WHERE a.account_id = create_wallet.user_id;
    IF NOT FOUND THEN
        RETURN toll.refusal(coalesce('unknown user ' || create_wallet.user_id, 'user_id is missing'));
    END IF;
    wallet := coalesce(create_wallet.currency, CASE account.charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE account.currency END);
    IF wallet NOT IN ('minutes', account.currency) THEN
        RETURN toll.refusal(format('user %s is charged in %s or minutes: a wallet in %s would never be debited',
            create_wallet.user_id, account.currency, wallet));
    END IF;
    created := toll.open_wallet(create_wallet.user_id, wallet);
    PERFORM toll.follow_credit(ARRAY[create_wallet.user_id], '{}');
    RETURN jsonb_build_object('success', true, 'data', jsonb_build_object(
        'user_id', create_wallet.user_id, 'currency', wallet, 'created', created));
END $$;
REVOKE ALL ON FUNCTION public.create_wallet(text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.create_wallet(text, text) IS
    'Opens an empty wallet: from now on the account is prepaid, and without credit until it is topped up. currency: the account''s (the'
    ' default), or minutes (the default of an account charged by prepaid_minutes). {"success": true, "data": {user_id, currency, created}};'
    ' created false: it was there. {"success": false, "error"}: unknown user; another currency';

CREATE OR REPLACE FUNCTION public.set_low_balance(user_id text, threshold_cents numeric, auto_reload boolean DEFAULT NULL, currency text DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed public.customer_balance;
BEGIN
    IF set_low_balance.threshold_cents IS NULL OR set_low_balance.threshold_cents NOT BETWEEN 0 AND 1000000000000
        OR set_low_balance.threshold_cents <> trunc(set_low_balance.threshold_cents) THEN
        RETURN toll.refusal(format('threshold_cents must be a whole number from 0 to 1000000000000, not %s',
            coalesce(set_low_balance.threshold_cents::text, 'NULL')));
    ELSIF NOT EXISTS (SELECT FROM public.accounts AS a WHERE a.account_id = set_low_balance.user_id) THEN
        RETURN toll.refusal(coalesce('unknown user ' || set_low_balance.user_id, 'user_id is missing'));
    END IF;
    PERFORM toll.lock_wallets(ARRAY[set_low_balance.user_id]);
    UPDATE public.customer_balance AS b
    SET low_balance_threshold = set_low_balance.threshold_cents,
        auto_reload_enabled = coalesce(set_low_balance.auto_reload, b.auto_reload_enabled),
        -- Who switches reloading on is told of a balance that is low already.
        is_low = b.is_low AND (b.auto_reload_enabled OR NOT coalesce(set_low_balance.auto_reload, false))
    FROM public.accounts AS a
    WHERE a.account_id = b.user_id AND b.user_id = set_low_balance.user_id
      AND b.currency = coalesce(set_low_balance.currency, CASE a.charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE a.currency END)
    RETURNING b.* INTO changed;
    IF NOT FOUND THEN
        RETURN toll.refusal(format('user %s has no such wallet: create_wallet() opens one', set_low_balance.user_id));
    END IF;
    PERFORM toll.follow_credit(ARRAY[set_low_balance.user_id], '{}');
    RETURN jsonb_build_object('success', true, 'data', jsonb_build_object(
        'user_id', changed.user_id, 'currency', changed.currency, 'low_balance_threshold', changed.low_balance_threshold,
        'auto_reload_enabled', changed.auto_reload_enabled));
END $$;
REVOKE ALL ON FUNCTION public.set_low_balance(text, numeric, boolean, text) FROM PUBLIC;
COMMENT ON FUNCTION public.set_low_balance(text, numeric, boolean, text) IS
    'Sets the balance, in cents (hundredths of the wallet''s unit; 0 to 10^12), at or below which credit is low, and whether crossing it also'
    ' notifies toll_auto_reload (NULL: as it was). currency: which wallet; NULL: the one that the account''s scheme debits. Alerts at once where'
    ' the balance is above the old threshold and not above the new one. {"success": true, "data": {user_id, currency, low_balance_threshold,'
    ' auto_reload_enabled}}; {"success": false, "error"}: unknown user, no such wallet, a threshold out of range';

CREATE OR REPLACE FUNCTION public.get_balance(user_id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account public.accounts;
    wallets jsonb;
BEGIN
    SELECT * INTO account FROM public.accounts AS a WHERE a.account_id = get_balance.user_id;
    IF NOT FOUND THEN
        RETURN toll.refusal(coalesce('unknown user ' || get_balance.user_id, 'user_id is missing'));
    END IF;
    SELECT jsonb_object_agg(w.currency, jsonb_build_object(
        'balance_cents', b.balance_cents, 'balance', trim_scale(b.balance),
        'available_cents', floor(w.available * 100), 'available', trim_scale(w.available), 'held', trim_scale(w.held),
        'started', trim_scale(w.started), 'started_minutes', w.started_minutes, 'unpriced_calls', w.unpriced,
        'low_balance_threshold', b.low_balance_threshold, 'auto_reload_enabled', b.auto_reload_enabled,
        'state', CASE WHEN w.available <= 0 THEN 'exhausted' WHEN w.available <= w.threshold THEN 'low' ELSE 'ok' END))
    INTO wallets
    FROM toll.available_credit(ARRAY[get_balance.user_id], clock_timestamp()) AS w
    JOIN public.customer_balance AS b ON b.user_id = w.user_id AND b.currency = w.currency;
    RETURN jsonb_build_object('success', true, 'data',
        jsonb_build_object('user_id', account.account_id, 'currency', account.currency, 'charge_by', account.charge_by,
                           'balance_cents', NULL, 'balance', NULL)
        || coalesce(wallets -> account.currency, '{}')
        || jsonb_build_object('minutes', wallets -> 'minutes'));
END $$;
REVOKE ALL ON FUNCTION public.get_balance(text) FROM PUBLIC;
COMMENT ON FUNCTION public.get_balance(text) IS
    'The account''s wallets: {"success": true, "data": {user_id, currency, charge_by, balance_cents, balance, available_cents, available, held,'
    ' started, started_minutes, unpriced_calls, low_balance_threshold, auto_reload_enabled, state, minutes: {the same of its wallet of minutes,'
    ' in minutes and hundredths of minutes} or null}}. balance is exact, in units of the currency, and may be negative; cents are rounded down.'
    ' available = balance - held (what remains of holds) - started (minutes that live calls have begun); unpriced_calls: those whose tariff has'
    ' no price, which started leaves out. Without a wallet of money (postpaid) balance and balance_cents are null, the rest is left out.'
    ' {"success": false, "error"}: unknown user';

CREATE OR REPLACE FUNCTION public.has_sufficient_balance(user_id text, estimated_cost_cents numeric)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account   public.accounts;
    available numeric;
BEGIN
    IF has_sufficient_balance.estimated_cost_cents IS NULL OR has_sufficient_balance.estimated_cost_cents NOT BETWEEN 0 AND 1000000000000 THEN
        RAISE EXCEPTION 'toll: has_sufficient_balance: estimated_cost_cents must be from 0 to 1000000000000, not %',
            coalesce(has_sufficient_balance.estimated_cost_cents::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO account FROM public.accounts AS a WHERE a.account_id = has_sufficient_balance.user_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT w.available INTO available
    FROM toll.available_credit(ARRAY[has_sufficient_balance.user_id], clock_timestamp()) AS w
    WHERE w.currency = CASE account.charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE account.currency END;
    RETURN NOT FOUND OR (available > 0 AND available >= has_sufficient_balance.estimated_cost_cents / 100);
END $$;
REVOKE ALL ON FUNCTION public.has_sufficient_balance(text, numeric) FROM PUBLIC;
COMMENT ON FUNCTION public.has_sufficient_balance(text, numeric) IS
    'Whether a call that is expected to cost so much can begin: what is available (see get_balance) is above 0 and enough. In cents, fractions'
    ' allowed; of an account charged by prepaid_minutes in hundredths of minutes. True without a wallet: postpaid. NULL: unknown user. Error: an'
    ' estimate that is NULL, negative, no number or above 10^12';

CREATE OR REPLACE FUNCTION public.reserve(user_id text, cents numeric, ttl interval DEFAULT '1 hour')
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    account public.accounts;
    wallet  text;
    free    numeric;
    made    public.credit_holds;
BEGIN
    IF reserve.cents IS NULL OR reserve.cents NOT BETWEEN 1 AND 1000000000000 OR reserve.cents <> trunc(reserve.cents) THEN
        RETURN toll.refusal(format('cents must be a whole number from 1 to 1000000000000, not %s', coalesce(reserve.cents::text, 'NULL')));
    ELSIF reserve.ttl IS NULL OR reserve.ttl <= interval '0' OR reserve.ttl > interval '31 days' THEN
        RETURN toll.refusal(format('ttl must be above 0 and 31 days at most, not %s', coalesce(reserve.ttl::text, 'NULL')));
    END IF;
    SELECT * INTO account FROM public.accounts AS a WHERE a.account_id = reserve.user_id;
    IF NOT FOUND THEN
        RETURN toll.refusal(coalesce('unknown user ' || reserve.user_id, 'user_id is missing'));
    END IF;
    wallet := CASE account.charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE account.currency END;
    PERFORM toll.lock_wallets(ARRAY[reserve.user_id]);
    SELECT w.available INTO free FROM toll.available_credit(ARRAY[reserve.user_id], clock_timestamp()) AS w WHERE w.currency = wallet;
    IF NOT FOUND THEN
        RETURN toll.refusal(format('user %s has no wallet in %s (postpaid): there is nothing to hold', reserve.user_id, wallet));
    ELSIF free < reserve.cents / 100 THEN
        RETURN toll.refusal(format('insufficient credit: %s of %s cents are available', floor(free * 100), reserve.cents));
    END IF;
    INSERT INTO public.credit_holds (user_id, currency, amount, created_at, expires_at)
    VALUES (reserve.user_id, wallet, round(reserve.cents) / 100, clock_timestamp(), clock_timestamp() + reserve.ttl)
    RETURNING * INTO made;
    PERFORM toll.follow_credit(ARRAY[reserve.user_id], '{}');
    RETURN jsonb_build_object('success', true, 'data', jsonb_build_object(
        'hold_id', made.hold_id, 'user_id', made.user_id, 'currency', made.currency, 'cents', round(reserve.cents),
        'expires_at', made.expires_at));
END $$;
REVOKE ALL ON FUNCTION public.reserve(text, numeric, interval) FROM PUBLIC;
COMMENT ON FUNCTION public.reserve(text, numeric, interval) IS
    'Sets credit aside for a call to come, which names the hold in its metadata (hold_id). cents: whole hundredths of the currency''s unit, of'
    ' minutes for an account charged by prepaid_minutes; 1 to 10^12. What the call is debited is taken off the hold; the rest is available again'
    ' when the call ends, after ttl (above 0, 31 days at most), or by release(). {"success": true, "data": {hold_id, user_id, currency, cents,'
    ' expires_at}}. {"success": false, "error"}: unknown user, no wallet, less than that available, values out of range';

CREATE OR REPLACE FUNCTION public.release(hold_id uuid)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held public.credit_holds;
    open boolean;
BEGIN
    SELECT * INTO held FROM public.credit_holds AS h WHERE h.hold_id = release.hold_id;
    IF NOT FOUND THEN
        RETURN toll.refusal(coalesce('unknown hold ' || release.hold_id, 'hold_id is missing'));
    END IF;
    PERFORM toll.lock_wallets(ARRAY[held.user_id]);
    UPDATE public.credit_holds AS h SET released_at = least(clock_timestamp(), h.expires_at)
    WHERE h.hold_id = release.hold_id AND h.released_at IS NULL
    RETURNING h.released_at < h.expires_at INTO open;
    PERFORM toll.follow_credit(ARRAY[held.user_id], '{}');
    RETURN jsonb_build_object('success', true, 'data', jsonb_build_object(
        'hold_id', held.hold_id, 'user_id', held.user_id, 'released', coalesce(open, false)));
END $$;
REVOKE ALL ON FUNCTION public.release(uuid) FROM PUBLIC;
COMMENT ON FUNCTION public.release(uuid) IS
    'Gives a hold back: what remains of it is available again, in this transaction. {"success": true, "data": {hold_id, user_id, released}};'
    ' released false: it had ended or lapsed before. {"success": false, "error"}: unknown hold';

CREATE OR REPLACE FUNCTION public.credit_history(user_id text, most integer DEFAULT 100, before timestamptz DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found jsonb;
BEGIN
    IF credit_history.most IS NULL OR credit_history.most NOT BETWEEN 1 AND 10000 THEN
        RETURN toll.refusal(format('most must be from 1 to 10000, not %s', coalesce(credit_history.most::text, 'NULL')));
    ELSIF NOT EXISTS (SELECT FROM public.accounts AS a WHERE a.account_id = credit_history.user_id) THEN
        RETURN toll.refusal(coalesce('unknown user ' || credit_history.user_id, 'user_id is missing'));
    END IF;
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'transaction_id', t.transaction_id, 'currency', t.currency, 'amount', trim_scale(t.amount), 'amount_cents', t.amount_cents,
               'balance_after', trim_scale(t.balance_after), 'transaction_type', t.kind, 'reference_id', t.reference_id,
               'payment_method', t.payment_method, 'created_at', t.created_at) ORDER BY t.created_at DESC, t.transaction_id), '[]')
    INTO found
    FROM (
        (SELECT c.transaction_id, c.currency, c.amount, c.amount_cents, c.balance_after, c.transaction_type AS kind, c.reference_id,
                c.payment_method, c.created_at
         FROM public.credit_transactions AS c
         WHERE c.user_id = credit_history.user_id AND (credit_history.before IS NULL OR c.created_at < credit_history.before)
         ORDER BY c.created_at DESC
         FETCH FIRST credit_history.most ROWS WITH TIES)
        UNION ALL
        (SELECT w.transaction_id, w.currency, w.minutes_delta, NULL, w.balance_after, w.type, w.reference_id, w.payment_method, w.created_at
         FROM public.wallet_transactions AS w
         WHERE w.user_id = credit_history.user_id AND (credit_history.before IS NULL OR w.created_at < credit_history.before)
         ORDER BY w.created_at DESC
         FETCH FIRST credit_history.most ROWS WITH TIES)
        ORDER BY created_at DESC
        FETCH FIRST credit_history.most ROWS WITH TIES) AS t;
    RETURN jsonb_build_object('success', true, 'data', found);
END $$;
REVOKE ALL ON FUNCTION public.credit_history(text, integer, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION public.credit_history(text, integer, timestamptz) IS
    'The rows of the account''s ledgers, money and minutes, latest first: {"success": true, "data": [{transaction_id, currency, amount (exact, in'
    ' units of currency), amount_cents (null for minutes), balance_after, transaction_type, reference_id, payment_method, created_at}]}. The latest'
    ' `most` of them (1 to 10000; and those booked at the same time as the last), of those booked before `before`; to go on, give the last one''s'
    ' created_at. [] where there are none. {"success": false, "error"}: unknown user, most out of range';
