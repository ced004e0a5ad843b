-- Who pays for a session: accounts on first sight, and what rating knows of each session (toll.rated_sessions).

-- An expression only and without SET, so that the planner puts it in the place of the call.
CREATE OR REPLACE FUNCTION toll.name_in(metadata jsonb, key text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.jsonb_typeof(metadata -> key) IN ('string', 'number') AND pg_catalog.octet_length(metadata ->> key) BETWEEN 1 AND 256
            THEN metadata ->> key END;
REVOKE ALL ON FUNCTION toll.name_in(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.name_in(jsonb, text) IS 'The value of this key, if it is a string or number of 1 to 256 bytes; else NULL';

CREATE OR REPLACE FUNCTION toll.named_in(metadata jsonb, keys text[])
RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key text;
BEGIN
    FOREACH key IN ARRAY keys LOOP
        IF toll.name_in(metadata, key) IS NOT NULL THEN
            RETURN toll.name_in(metadata, key);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION toll.named_in(jsonb, text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.named_in(jsonb, text[]) IS
    'The value of the first of these keys that metadata have: a string or number of 1 to 256 bytes; others count as absent. NULL: none';

CREATE OR REPLACE FUNCTION toll.meet_accounts(names text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id, trial_ends_at, trial_allowance)
    SELECT n.name, s.default_plan_id, s.default_currency, s.default_time_zone, s.default_charge_by, s.default_tariff_id,
           CASE WHEN s.trial_days > 0 THEN now() + make_interval(days => s.trial_days) END,
           CASE WHEN s.trial_days > 0 THEN s.trial_allowance END
    FROM (SELECT DISTINCT u.name FROM unnest(meet_accounts.names) AS u (name)
          WHERE octet_length(u.name) BETWEEN 1 AND 256
            AND NOT EXISTS (SELECT FROM public.accounts AS a WHERE a.account_id = u.name OFFSET 0)) AS n
    CROSS JOIN toll.rating_settings AS s
    ORDER BY n.name
    ON CONFLICT (account_id) DO NOTHING;
END $$;
REVOKE ALL ON FUNCTION toll.meet_accounts(text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.meet_accounts(text[]) IS 'Makes those of these accounts that are not there yet, with the defaults of toll.rating_settings';

-- In all that follows each row is looked up by its key (OFFSET 0): plans are kept, and one from when a table was empty would go through all of it for each.
-- What metadata say of a session (toll.named_sessions), where its account is not known yet: all of it is fixed when the account is.
CREATE OR REPLACE FUNCTION toll.meet_sessions(ids uuid[])
RETURNS TABLE (session_id uuid, account_id text, hold_id uuid, is_new boolean, old_business_id text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    unknown uuid[] := ARRAY(
        SELECT u.id FROM unnest(meet_sessions.ids) AS u (id)
        LEFT JOIN LATERAL (SELECT r.account_id FROM toll.rated_sessions AS r WHERE r.session_id = u.id OFFSET 0) AS r ON true
        WHERE r.account_id IS NULL ORDER BY u.id);
    named   uuid[];
    names   text[]; -- their accounts
BEGIN
    IF cardinality(unknown) = 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(n.session_id), array_agg(n.account_name) INTO named, names
    FROM toll.named_sessions AS n WHERE n.session_id = ANY (unknown);
    PERFORM toll.meet_accounts(names);
    RETURN QUERY
    INSERT INTO toll.rated_sessions AS r (
        session_id, account_id, charge_by, plan_id, tariff_id, currency, channel, business_id, enterprise_id, workflow_name, call_id, hold_id,
        started_at, resolved_at)
    SELECT n.session_id, a.account_id, a.charge_by, a.plan_id, a.tariff_id, a.currency, n.channel, n.business_id, n.enterprise_id,
           n.workflow_name, n.call_id, n.hold_id, n.started_at, CASE WHEN a.account_id IS NOT NULL THEN now() END
    FROM unnest(named, names) AS u (session_id, account_name)
    CROSS JOIN LATERAL (
        SELECT m.session_id, m.channel, m.business_id, m.enterprise_id, m.workflow_name, m.call_id, m.hold_id, m.started_at
        FROM toll.named_sessions AS m WHERE m.session_id = u.session_id OFFSET 0) AS n
    LEFT JOIN LATERAL (SELECT k.* FROM public.accounts AS k WHERE k.account_id = u.account_name OFFSET 0) AS a ON true
    ORDER BY n.session_id
    ON CONFLICT (session_id) DO NOTHING
    RETURNING r.session_id, r.account_id, r.hold_id, true, NULL::text;
    -- Those that were there without an account. While this transaction lasts nobody else finds their account, or rates anything of theirs.
    PERFORM FROM toll.rated_sessions AS r
    WHERE r.session_id = ANY (unknown) AND r.account_id IS NULL ORDER BY r.session_id FOR UPDATE;
    RETURN QUERY
    UPDATE toll.rated_sessions AS r
    SET account_id = a.account_id, charge_by = a.charge_by, plan_id = a.plan_id, tariff_id = a.tariff_id, currency = a.currency,
        channel = n.channel, business_id = n.business_id, enterprise_id = n.enterprise_id, workflow_name = n.workflow_name,
        call_id = n.call_id, hold_id = n.hold_id, resolved_at = now()
    FROM unnest(unknown) AS u (session_id)
    CROSS JOIN LATERAL (SELECT k.ctid AS place, k.session_id, k.account_id, k.business_id FROM toll.rated_sessions AS k
                        WHERE k.session_id = u.session_id OFFSET 0) AS h
    CROSS JOIN LATERAL (SELECT k.* FROM toll.named_sessions AS k WHERE k.session_id = h.session_id OFFSET 0) AS n
    CROSS JOIN LATERAL (SELECT c.account_id, c.charge_by, c.plan_id, c.tariff_id, c.currency FROM public.accounts AS c
                        WHERE c.account_id = n.account_name OFFSET 0) AS a
    WHERE h.account_id IS NULL AND r.ctid = h.place -- it is locked, so it stays there
    RETURNING r.session_id, r.account_id, r.hold_id, false, h.business_id;
END $$;
REVOKE ALL ON FUNCTION toll.meet_sessions(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.meet_sessions(uuid[]) IS
    'Notes of these sessions what their metadata say, where no account is known yet. Returns those that are new, and those that had no account and have one'
    ' now. Those that still have none are locked';
