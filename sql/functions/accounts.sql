-- Accounts and plans: who is charged, by which scheme.

CREATE OR REPLACE FUNCTION toll.check_account(account public.accounts)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problem text;
BEGIN
    problem := CASE
        WHEN account.account_id IS NULL OR account.account_id = '' OR octet_length(account.account_id) > 256
            THEN 'an account''s id has 1 to 256 bytes'
        WHEN account.plan_id IS NULL OR NOT EXISTS (SELECT FROM public.plans p WHERE p.plan_id = account.plan_id)
            THEN format('there is no plan %L', account.plan_id)
        WHEN NOT coalesce(account.currency ~ '^[A-Z]{3}$', false)
            THEN format('currency %L is not an ISO 4217 code of three capitals, such as USD', account.currency)
        WHEN NOT coalesce(account.charge_by IN ('usage', 'minutes', 'prepaid_minutes', 'plan'), false)
            THEN format('charge_by %L is none of usage, minutes, prepaid_minutes, plan', account.charge_by)
        WHEN account.tariff_id IS NULL OR account.tariff_id = '' OR octet_length(account.tariff_id) > 256
            THEN 'a tariff''s id has 1 to 256 bytes (*: the one for any)'
        WHEN account.markup_percent = 'NaN' OR account.markup_percent < -100 OR account.markup_percent > 1000000
             OR scale(account.markup_percent) > 9
            THEN format('a markup is from -100 to 1000000 percent with at most 9 decimals, not %s', account.markup_percent)
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'toll: %', problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    BEGIN
        PERFORM timezone(account.time_zone, 'epoch'::timestamptz);
    EXCEPTION WHEN invalid_parameter_value THEN
        account.time_zone := NULL;
    END;
    IF account.time_zone IS NULL THEN
        RAISE EXCEPTION 'toll: the time zone is not one that PostgreSQL knows (see pg_timezone_names), such as Europe/Berlin'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
REVOKE ALL ON FUNCTION toll.check_account(public.accounts) FROM PUBLIC;
COMMENT ON FUNCTION toll.check_account(public.accounts) IS 'Raises an error that says what is wrong with an account as it would be';

CREATE OR REPLACE FUNCTION toll.lock_account(account_id text)
RETURNS public.accounts
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    account public.accounts;
BEGIN
    SELECT a.* INTO account FROM public.accounts a WHERE a.account_id = account_id FOR NO KEY UPDATE;
    IF account.account_id IS NULL THEN
        RAISE EXCEPTION 'toll: there is no account %', coalesce(quote_literal(account_id), 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    RETURN account;
END $$;
REVOKE ALL ON FUNCTION toll.lock_account(text) FROM PUBLIC;
COMMENT ON FUNCTION toll.lock_account(text) IS 'The account, locked until the transaction ends; an error when there is none';

CREATE OR REPLACE FUNCTION public.create_account(
    account_id text, name text DEFAULT NULL, plan_id text DEFAULT NULL, currency text DEFAULT NULL, time_zone text DEFAULT NULL,
    charge_by text DEFAULT NULL, tariff_id text DEFAULT NULL, markup_percent numeric DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    account public.accounts;
    s       toll.rating_settings;
BEGIN
    SELECT * INTO s FROM toll.rating_settings;
    account.account_id := account_id;
    account.name := name;
    account.plan_id := coalesce(plan_id, s.default_plan_id);
    account.currency := coalesce(currency, s.default_currency);
    account.time_zone := coalesce(time_zone, s.default_time_zone);
    account.charge_by := coalesce(charge_by, s.default_charge_by);
    account.tariff_id := coalesce(tariff_id, s.default_tariff_id);
    account.markup_percent := markup_percent;
    IF s.trial_days > 0 THEN
        account.trial_ends_at := now() + make_interval(days => s.trial_days);
        account.trial_allowance := s.trial_allowance;
    END IF;
    PERFORM toll.check_account(account);
    INSERT INTO public.accounts AS a (account_id, name, plan_id, currency, time_zone, charge_by, tariff_id, trial_ends_at, trial_allowance,
                                      markup_percent)
    VALUES (account.account_id, account.name, account.plan_id, account.currency, account.time_zone, account.charge_by, account.tariff_id,
            account.trial_ends_at, account.trial_allowance, account.markup_percent)
    ON CONFLICT ON CONSTRAINT accounts_pkey DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'toll: there is an account % already', quote_literal(account_id) USING ERRCODE = 'unique_violation';
    END IF;
    RETURN account_id;
END $$;
REVOKE ALL ON FUNCTION public.create_account(text, text, text, text, text, text, text, numeric) FROM PUBLIC;
COMMENT ON FUNCTION public.create_account(text, text, text, text, text, text, text, numeric) IS
    'Makes an account and returns its id; what is NULL is as toll.rating_settings say, trial included. markup_percent: charge cost and so'
    ' much where there is no price to charge. An error if it exists or something is wrong. An account that usage names is made by'
    ' itself; one that is to be charged in another currency than the default must be made before';

CREATE OR REPLACE FUNCTION public.set_plan(account_id text, plan_id text)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    account public.accounts := toll.lock_account(account_id);
BEGIN
    account.plan_id := plan_id;
    PERFORM toll.check_account(account);
    UPDATE public.accounts a SET plan_id = set_plan.plan_id WHERE a.account_id = account_id;
END $$;
REVOKE ALL ON FUNCTION public.set_plan(text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.set_plan(text, text) IS
    'Puts an account on another plan. Calls that have begun stay with the one they began with. An error for an account or plan that is not there';

CREATE OR REPLACE FUNCTION public.set_scheme(account_id text, charge_by text, tariff_id text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    account public.accounts := toll.lock_account(account_id);
BEGIN
    account.charge_by := charge_by;
    account.tariff_id := coalesce(tariff_id, account.tariff_id);
    PERFORM toll.check_account(account);
    UPDATE public.accounts a SET charge_by = account.charge_by, tariff_id = account.tariff_id WHERE a.account_id = account_id;
END $$;
REVOKE ALL ON FUNCTION public.set_scheme(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.set_scheme(text, text, text) IS
    'Charges an account by usage, minutes, prepaid_minutes or plan from now on; tariff_id: its minute tariff (NULL: as it is). Calls that'
    ' have begun stay with the scheme they began with. An error for an account that is not there or another scheme';

CREATE OR REPLACE FUNCTION public.start_trial(account_id text, ends_at timestamptz, allowance numeric DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    account public.accounts := toll.lock_account(account_id);
BEGIN
    IF ends_at IS NULL OR NOT isfinite(ends_at) THEN
        RAISE EXCEPTION 'toll: say when the trial ends' USING ERRCODE = 'invalid_parameter_value';
    ELSIF allowance = 'NaN' OR allowance < 0 OR allowance >= 1e11 OR scale(allowance) > 9 THEN
        RAISE EXCEPTION 'toll: a trial''s allowance is from 0 to below 100000000000 with at most 9 decimals, not %', allowance
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    account.trial_ends_at := ends_at;
    account.trial_allowance := allowance;
    PERFORM toll.check_account(account);
    UPDATE public.accounts a SET trial_ends_at = ends_at, trial_allowance = allowance, trial_used = 0 WHERE a.account_id = account_id;
END $$;
REVOKE ALL ON FUNCTION public.start_trial(text, timestamptz, numeric) FROM PUBLIC;
COMMENT ON FUNCTION public.start_trial(text, timestamptz, numeric) IS
    'Begins a trial: charges for usage before ends_at are waived, up to `allowance` in the account''s currency (NULL: all of them). What an'
    ' earlier trial used does not count; a trial ends at once with an ends_at that has passed. An error for an account that'
    ' is not there or an allowance that is negative or NaN';

CREATE OR REPLACE FUNCTION public.set_markup(account_id text, markup_percent numeric)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    account public.accounts := toll.lock_account(account_id);
BEGIN
    account.markup_percent := markup_percent;
    PERFORM toll.check_account(account);
    UPDATE public.accounts a SET markup_percent = set_markup.markup_percent WHERE a.account_id = account_id;
END $$;
REVOKE ALL ON FUNCTION public.set_markup(text, numeric) FROM PUBLIC;
COMMENT ON FUNCTION public.set_markup(text, numeric) IS
    'Charges an account cost and so many percent where there is no price to charge; NULL: such usage is unrated. An error for an'
    ' account that is not there or a percentage below -100, above 1000000 or NaN';

CREATE OR REPLACE FUNCTION public.create_plan(plan_id text, name text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    IF plan_id IS NULL OR plan_id IN ('', '*') OR octet_length(plan_id) > 256 THEN
        RAISE EXCEPTION 'toll: a plan''s id has 1 to 256 bytes and is not *' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO public.plans AS p (plan_id, name) VALUES (plan_id, coalesce(name, plan_id)) ON CONFLICT ON CONSTRAINT plans_pkey DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'toll: there is a plan % already', quote_literal(plan_id) USING ERRCODE = 'unique_violation';
    END IF;
    RETURN plan_id;
END $$;
REVOKE ALL ON FUNCTION public.create_plan(text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.create_plan(text, text) IS 'Makes a plan and returns its id; an error if it exists. Its quotas: set_quota()';

CREATE OR REPLACE FUNCTION public.set_quota(
    plan_id text, event_type text, included_quantity numeric, overage_price_cents numeric, quota_limit numeric DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    name  text;
    value numeric;
BEGIN
    IF NOT EXISTS (SELECT FROM public.plans p WHERE p.plan_id = plan_id) THEN
        RAISE EXCEPTION 'toll: there is no plan %', coalesce(quote_literal(plan_id), 'NULL') USING ERRCODE = 'no_data_found';
    ELSIF event_type IS NULL OR event_type = '' OR length(event_type) > 256 THEN
        RAISE EXCEPTION 'toll: event_type is the meter, such as api_call, voice_minute, ai_query, storage_mb'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR name, value IN VALUES ('included_quantity', included_quantity), ('overage_price_cents', overage_price_cents),
                              ('quota_limit', coalesce(quota_limit, 0)) LOOP
        IF value IS NULL OR value = 'NaN' OR value < 0 OR value >= 1e12 OR scale(value) > 18 THEN
            RAISE EXCEPTION 'toll: % is from 0 to below 1000000000000 with at most 18 decimals, not %', name, coalesce(value::text, 'NULL')
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
    INSERT INTO public.usage_quotas AS q (plan_id, event_type, included_quantity, quota_limit, overage_price_cents)
    VALUES (plan_id, event_type, included_quantity, quota_limit, overage_price_cents)
    ON CONFLICT ON CONSTRAINT usage_quotas_pkey DO UPDATE
    SET included_quantity = excluded.included_quantity, quota_limit = excluded.quota_limit, overage_price_cents = excluded.overage_price_cents;
END $$;
REVOKE ALL ON FUNCTION public.set_quota(text, text, numeric, numeric, numeric) FROM PUBLIC;
COMMENT ON FUNCTION public.set_quota(text, text, numeric, numeric, numeric) IS
    'Says what a plan includes of a meter each month, in the meter''s unit, what one unit more costs in cents of the account''s currency,'
    ' and above which quantity to alert (NULL: never). Applies from now on to what is rated. An error for a plan that is not there or'
    ' a quantity or price that is negative, NaN or 1e12 and more';
