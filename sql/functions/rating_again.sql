-- Rating once more: what had no price, what had a wrong one, whose account was found. One of these at a time (toll.rating_again_begins).

CREATE OR REPLACE FUNCTION toll.rating_again_begins()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('toll.rating_again', 0));
    PERFORM toll.rating_begins();
END $$;
REVOKE ALL ON FUNCTION toll.rating_again_begins() FROM PUBLIC;
COMMENT ON FUNCTION toll.rating_again_begins() IS 'First in each transaction that rates what was rated before: only one does, until it ends';

CREATE OR REPLACE FUNCTION toll.event_inputs(ids bigint[], times timestamptz[])
RETURNS toll.rating_input[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
    RETURN ARRAY(
        SELECT e.input
        FROM unnest(event_inputs.ids, event_inputs.times) AS u (id, occurred_at)
        CROSS JOIN LATERAL (SELECT v.id, v.input FROM toll.rating_events AS v WHERE v.id = u.id AND v.occurred_at = u.occurred_at OFFSET 0) AS e
        ORDER BY e.id);
END $$;
REVOKE ALL ON FUNCTION toll.event_inputs(bigint[], timestamptz[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.event_inputs(bigint[], timestamptz[]) IS
    'What decides the prices of these events (numbers, and when they occurred), as it is now, in order of number. Events that are no longer stored are left out';

CREATE OR REPLACE FUNCTION toll.rate_unrated(most integer DEFAULT 100000)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
SET work_mem = '64MB'
AS $$
DECLARE
    together CONSTANT integer := 5000;
    last  bigint := 0;
    ids   bigint[];
    times timestamptz[];
    lines toll.rated_line[] := '{}';
    bills uuid[];
BEGIN
    PERFORM toll.rating_again_begins();
    LOOP
        SELECT array_agg(u.event_id), array_agg(u.occurred_at), max(u.event_id) INTO ids, times, last
        FROM (SELECT DISTINCT u.event_id, u.occurred_at FROM toll.unrated AS u WHERE u.event_id > last ORDER BY u.event_id LIMIT together) AS u;
        EXIT WHEN ids IS NULL;
        -- Nobody finds an account for these meanwhile.
        PERFORM FROM toll.rated_sessions AS r
        WHERE r.session_id = ANY (ARRAY(SELECT u.session_id FROM toll.unrated AS u WHERE u.event_id = ANY (ids) AND u.account_id IS NULL))
          AND r.account_id IS NULL
        ORDER BY r.session_id FOR UPDATE;
        WITH missing AS MATERIALIZED (
            SELECT u.event_id, bool_or(u.side = 'cost') AS cost, bool_or(u.side = 'charge' AND u.missing !~ '^overage: ') AS charge
            FROM toll.unrated AS u WHERE u.event_id = ANY (ids) GROUP BY u.event_id
        ), priced AS MATERIALIZED (
            SELECT p.*, m.cost AND p.cost IS NOT NULL AS has_cost, m.charge AND p.charge IS NOT NULL AS has_charge
            FROM unnest(toll.price_events(toll.event_inputs(ids, times))) AS p JOIN missing AS m ON m.event_id = p.event_id
        ), done AS (
            DELETE FROM toll.unrated AS u USING priced AS p
            WHERE u.event_id = p.event_id AND CASE u.side WHEN 'cost' THEN p.has_cost ELSE p.has_charge END
        ), told AS (
            UPDATE toll.unrated AS u SET missing = CASE u.side WHEN 'cost' THEN p.cost_missing ELSE p.charge_missing END
            FROM priced AS p
            WHERE u.event_id = p.event_id AND NOT CASE u.side WHEN 'cost' THEN p.has_cost ELSE p.has_charge END
              AND u.missing <> CASE u.side WHEN 'cost' THEN p.cost_missing ELSE p.charge_missing END
        )
        SELECT lines || array_agg(ROW(
            p.place, p.event_id, p.occurred_at, p.session_id, p.account_id, p.business_id, p.component, p.provider, p.model, p.variant, '{}',
            CASE WHEN p.has_cost THEN p.cost_original END, CASE WHEN p.has_cost THEN p.cost_currency END, CASE WHEN p.has_cost THEN p.cost END,
            CASE WHEN p.has_charge THEN p.charge END, 0, p.currency, CASE WHEN p.has_cost THEN p.cost_price_ids END,
            CASE WHEN p.has_charge THEN p.charge_price_ids END, 'usage', p.reason, p.closed_until, p.scope_plan, NULL, NULL, NULL,
            0, 0, 0, 0, 0, 0, 0, 0, -p.has_cost::integer, -p.has_charge::integer)::toll.rated_line ORDER BY p.place)
        INTO lines
        FROM priced AS p WHERE p.has_cost OR p.has_charge;
        lines := coalesce(lines, '{}');
        EXIT WHEN cardinality(lines) >= most;
    END LOOP;
    -- Calls whose tariff had no price.
    bills := ARRAY(SELECT r.session_id FROM toll.rated_sessions AS r WHERE r.billed_minutes IS NOT NULL AND r.billed_amount IS NULL LIMIT most);
    IF cardinality(bills) > 0 THEN
        lines := lines || toll.bill_sessions(bills, '{}', '{}', '{}');
    END IF;
    IF cardinality(lines) > 0 THEN
        PERFORM toll.book_lines(lines, bills);
    END IF;
    RETURN cardinality(lines);
END $$;
REVOKE ALL ON FUNCTION toll.rate_unrated(integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.rate_unrated(integer) IS
    'Tries all usage again that is listed as unrated (unrated_events, unrated_sessions): what has a price by now gets a further line with the side that was'
    ' missing, and wallets are debited. Stops after about so many lines; call it again while it returns as many. Returns how many lines it wrote';

CREATE OR REPLACE FUNCTION toll.resolve_sessions(ids uuid[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    resolved   uuid[];
    businesses text[];
BEGIN
    PERFORM toll.rating_begins();
    SELECT array_agg(m.session_id), array_agg(m.old_business_id) INTO resolved, businesses
    FROM toll.meet_sessions(ARRAY(SELECT r.session_id FROM toll.rated_sessions AS r
                                  WHERE r.session_id = ANY (resolve_sessions.ids) AND r.account_id IS NULL)) AS m
    WHERE NOT m.is_new;
    IF resolved IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM toll.book_lines(toll.move_lines(resolved, businesses) || toll.bill_sessions(resolved, '{}', resolved, businesses), resolved);
    RETURN cardinality(resolved);
END $$;
REVOKE ALL ON FUNCTION toll.resolve_sessions(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.resolve_sessions(uuid[]) IS
    'Looks again for the accounts of these sessions, where none is known, and charges what they used so far. rate_next does so by itself when metadata come; this is'
    ' for changed rating_settings.account_keys. Returns how many now have one';

-- As it was when it locked calls for a dry run, too.
DROP FUNCTION IF EXISTS toll.rerate_window(timestamptz, timestamptz);
CREATE OR REPLACE FUNCTION toll.rerate_window(from_at timestamptz, to_at timestamptz, locking boolean)
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
SET work_mem = '64MB'
AS $$
DECLARE
    ids      bigint[];
    times    timestamptz[];
    nameless uuid[];
    lines    toll.rated_line[];
BEGIN
    SELECT array_agg(e.event_id), array_agg(e.occurred_at), array_agg(e.session_id) FILTER (WHERE e.nameless) INTO ids, times, nameless
    FROM (SELECT c.event_id, c.occurred_at, c.session_id, bool_and(c.account_id IS NULL) AS nameless FROM public.billing_charges AS c
          WHERE c.occurred_at >= from_at AND c.occurred_at < to_at AND c.event_id IS NOT NULL AND c.kind = 'usage'
          GROUP BY c.event_id, c.occurred_at, c.session_id) AS e;
    IF ids IS NULL THEN
        RETURN '{}';
    END IF;
    IF locking THEN
        -- toll.rerate has locked most of them, but not those that came since, or began after this time by another clock than their events'.
        PERFORM FROM toll.rated_sessions AS r WHERE r.session_id = ANY (nameless) AND r.account_id IS NULL ORDER BY r.session_id FOR UPDATE;
    END IF;
    WITH old AS MATERIALIZED (
        SELECT c.event_id, coalesce(c.account_id, '') AS account_id, c.currency, coalesce(c.cost_currency, '') AS cost_currency,
               sum(c.cost) AS cost, sum(c.cost_original) AS cost_original, sum(c.charge) AS charge, sum(c.waived) AS waived
        FROM public.billing_charges AS c
        WHERE c.occurred_at >= from_at AND c.occurred_at < to_at AND c.event_id IS NOT NULL AND c.kind IN ('usage', 'adjustment')
        GROUP BY 1, 2, 3, 4
    ), charged AS MATERIALIZED (
        SELECT o.event_id, o.account_id, o.currency, sum(o.charge) AS charge, sum(o.waived) AS waived, sum(o.cost) AS cost
        FROM old AS o GROUP BY 1, 2, 3
    ), new AS MATERIALIZED (
        -- An event's new amounts, beside the sums of what its account has of it so far.
        SELECT n.*, c.charge AS old_charge, coalesce(c.waived, 0) AS old_waived, c.cost AS old_cost
        FROM unnest(toll.price_events(toll.event_inputs(ids, times))) AS n
        JOIN charged AS c ON c.event_id = n.event_id AND c.account_id = coalesce(n.account_id, '') AND c.currency = n.currency
    ), costs AS (
        -- In the currency of the new price, and in that of earlier ones, where it is another.
        SELECT n.event_id, n.cost_currency, n.cost - coalesce(o.cost, 0) AS cost, n.cost_original - coalesce(o.cost_original, 0) AS cost_original, true AS is_new
        FROM new AS n
        LEFT JOIN old AS o ON o.event_id = n.event_id AND o.account_id = coalesce(n.account_id, '') AND o.currency = n.currency
                              AND o.cost_currency = n.cost_currency
        WHERE n.cost IS NOT NULL
        UNION ALL
        SELECT n.event_id, o.cost_currency, -o.cost, -o.cost_original, false
        FROM new AS n
        JOIN old AS o ON o.event_id = n.event_id AND o.account_id = coalesce(n.account_id, '') AND o.currency = n.currency
        WHERE n.cost IS NOT NULL AND o.cost_currency <> n.cost_currency AND o.cost <> 0
    ), charges AS (
        SELECT n.event_id, n.charge - coalesce(n.old_charge, 0) AS charge,
               toll.given_back(n.old_waived, n.charge) AS waived
        FROM new AS n WHERE n.charge IS NOT NULL
    ), changed AS (
        SELECT n.event_id, k.cost, k.cost_original, k.cost_currency, h.charge, h.waived, coalesce(k.is_new, true) AS is_new
        FROM new AS n
        LEFT JOIN costs AS k ON k.event_id = n.event_id
                                -- A first amount of zero says something, a difference of zero nothing.
                                AND (k.cost <> 0 OR k.cost_original <> 0 OR (k.is_new AND n.old_cost IS NULL))
        LEFT JOIN charges AS h ON h.event_id = n.event_id AND coalesce(k.is_new, true)
                                  AND (h.charge <> 0 OR h.waived <> 0 OR n.old_charge IS NULL)
        WHERE k.event_id IS NOT NULL OR h.event_id IS NOT NULL
    )
    SELECT array_agg(ROW(
        n.place, n.event_id, n.occurred_at, n.session_id, n.account_id, n.business_id, n.component, n.provider, n.model, n.variant, '{}',
        d.cost_original, CASE WHEN d.cost IS NOT NULL THEN d.cost_currency END, d.cost, d.charge, coalesce(d.waived, 0), n.currency,
        CASE WHEN d.is_new AND d.cost IS NOT NULL THEN n.cost_price_ids END, CASE WHEN d.charge IS NOT NULL THEN n.charge_price_ids END, 'adjustment', 'rated anew', n.closed_until,
        n.scope_plan, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0,
        CASE WHEN d.is_new AND d.cost IS NOT NULL AND n.old_cost IS NULL THEN -1 ELSE 0 END,
        CASE WHEN d.is_new AND d.charge IS NOT NULL AND n.old_charge IS NULL THEN -1 ELSE 0 END)::toll.rated_line ORDER BY n.place)
    INTO lines
    FROM changed AS d JOIN new AS n ON n.event_id = d.event_id;
    RETURN coalesce(lines, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.rerate_window(timestamptz, timestamptz, boolean) FROM PUBLIC;
COMMENT ON FUNCTION toll.rerate_window(timestamptz, timestamptz, boolean) IS
    'Lines that make up the difference between what events rated so far, which occurred in this time, cost and are charged by today''s price book and what their lines'
    ' say. What has no price any more stays as it is; no more is waived than is charged (toll.given_back). locking: nobody finds an account for their calls'
    ' until the transaction ends, as is needed where these lines are to be written';

-- As it was when it took whatever calls it found.
DROP FUNCTION IF EXISTS toll.rerate_tariffs(timestamptz, timestamptz);
CREATE OR REPLACE FUNCTION toll.rerate_tariffs(from_at timestamptz, to_at timestamptz, calls uuid[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET jit = off
AS $$
DECLARE
    lines toll.rated_line[];
BEGIN
    WITH billed AS MATERIALIZED (
        SELECT r.*, c.closed_until, o.charge AS old_charge, o.waived AS old_waived,
               4611686018427387904 + row_number() OVER (ORDER BY r.ended_at, r.session_id) * 8 AS place
        FROM toll.rated_sessions AS r
        JOIN unnest(rerate_tariffs.calls) AS u (session_id) ON u.session_id = r.session_id
        JOIN public.accounts AS c ON c.account_id = r.account_id
        CROSS JOIN LATERAL (SELECT sum(l.charge) AS charge, coalesce(sum(l.waived), 0) AS waived
                            FROM public.billing_charges AS l WHERE l.session_id = r.session_id AND l.component = 'tariff' OFFSET 0) AS o
        WHERE r.ended_at >= from_at AND r.ended_at < to_at AND r.billed_minutes IS NOT NULL
    ), new AS MATERIALIZED (
        SELECT p.* FROM unnest(toll.price_events(ARRAY(
            SELECT ROW(0, b.ended_at, b.session_id, b.account_id, coalesce(b.business_id, ''), 'usage', b.closed_until, 'tariff', '', '', b.tariff_id, '',
                       b.account_id, coalesce(b.plan_id, ''), b.currency, NULL, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                       b.billed_minutes)::toll.rating_input
            FROM billed AS b))) AS p
        WHERE p.charge IS NOT NULL
    )
    SELECT array_agg(ROW(
        b.place, NULL, n.occurred_at, n.session_id, n.account_id, n.business_id, 'tariff', NULL, NULL, NULL, '{}', NULL, NULL, NULL,
        n.charge - coalesce(b.old_charge, 0),
        toll.given_back(b.old_waived, n.charge),
        n.currency, NULL, n.charge_price_ids, 'adjustment', 'rated anew', n.closed_until, coalesce(b.plan_id, ''),
        -- A wallet of minutes was debited minutes: they stay the same, unless a trial waives another part of them.
        CASE WHEN b.charge_by = 'prepaid_minutes'
             THEN toll.minutes_due(b.billed_minutes, n.charge, b.old_waived + toll.given_back(b.old_waived, n.charge))
                  - toll.minutes_due(b.billed_minutes, b.old_charge, b.old_waived) END, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        -(b.old_charge IS NULL)::integer)::toll.rated_line ORDER BY b.place)
    INTO lines
    FROM new AS n
    JOIN billed AS b ON b.session_id = n.session_id
    WHERE n.charge <> coalesce(b.old_charge, 0) OR b.old_charge IS NULL;
    RETURN coalesce(lines, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.rerate_tariffs(timestamptz, timestamptz, uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.rerate_tariffs(timestamptz, timestamptz, uuid[]) IS
    'Lines that make up the difference between what those of these calls that ended in this time are billed by the minute tariffs of today''s price book and what'
    ' their lines say. The caller has locked the calls, if it is to write these lines';

CREATE OR REPLACE FUNCTION toll.rerate(from_at timestamptz, to_at timestamptz, dry_run boolean DEFAULT true)
RETURNS TABLE (account_id text, component text, provider text, model text, currency text, changed bigint, old_cost numeric, new_cost numeric,
               cost_difference numeric, old_charge numeric, new_charge numeric, charge_difference numeric)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET work_mem = '64MB'
AS $$
#variable_conflict use_column
DECLARE
    most   CONSTANT integer := 1000000;
    part   record;
    lines  toll.rated_line[] := '{}';
    calls  uuid[];
BEGIN
    IF from_at IS NULL OR to_at IS NULL OR from_at >= to_at THEN
        RAISE EXCEPTION 'toll: rerate: from % is not before to %', from_at, to_at USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT dry_run THEN
        PERFORM toll.rating_again_begins();
        -- Nobody finds an account for these meanwhile.
        PERFORM FROM toll.rated_sessions AS r WHERE r.account_id IS NULL AND r.started_at < to_at ORDER BY r.session_id FOR UPDATE;
    END IF;
    -- Quarters of an hour, busy ones in parts, so that no step takes more memory than some 20,000 events need.
    FOR part IN
        SELECT greatest(from_at, q.quarter + interval '15 minutes' * (i - 1) / q.parts) AS begins,
               least(to_at, CASE WHEN i = q.parts THEN q.quarter + interval '15 minutes' ELSE q.quarter + interval '15 minutes' * i / q.parts END) AS ends
        FROM (SELECT u.quarter, 1 + (sum(u.events) / 20000)::integer AS parts
              FROM toll.usage_rollup AS u
              WHERE u.quarter > from_at - interval '15 minutes' AND u.quarter < to_at AND u.component NOT IN ('session', 'tariff')
              GROUP BY u.quarter) AS q
        CROSS JOIN LATERAL generate_series(1, q.parts) AS i
        ORDER BY 1
    LOOP
        CONTINUE WHEN part.begins >= part.ends;
        lines := lines || toll.rerate_window(part.begins, part.ends, NOT dry_run);
        IF cardinality(lines) > most THEN
            RAISE EXCEPTION 'toll: rerate: more than % lines would change: take a shorter time', most USING ERRCODE = 'program_limit_exceeded';
        END IF;
    END LOOP;
    calls := ARRAY(SELECT r.session_id FROM toll.rated_sessions AS r
                   WHERE r.ended_at >= from_at AND r.ended_at < to_at AND r.billed_minutes IS NOT NULL);
    IF NOT dry_run THEN
        -- Nobody corrects these meanwhile: what makes up the difference to the old charge would come on top of the new one. So no others are rated anew,
        -- though their ends may lie in this time by now.
        PERFORM FROM toll.rated_sessions AS r WHERE r.session_id = ANY (calls) ORDER BY r.session_id FOR NO KEY UPDATE;
    END IF;
    lines := lines || toll.rerate_tariffs(from_at, to_at, calls);

    RETURN QUERY
    WITH d AS (
        SELECT l.account_id, l.component, l.provider, l.model, l.currency, count(DISTINCT coalesce(l.event_id::text, l.session_id::text)) AS changed,
               sum(l.cost) AS cost, sum(l.charge) AS charge
        FROM unnest(lines) AS l GROUP BY 1, 2, 3, 4, 5
    ), o AS (
        SELECT c.account_id, c.component, c.provider, c.model, c.currency, sum(c.cost) AS cost, sum(c.charge) AS charge
        FROM public.billing_charges AS c
        WHERE c.occurred_at >= from_at AND c.occurred_at < to_at AND c.kind <> 'overage'
        GROUP BY 1, 2, 3, 4, 5
    )
    SELECT d.account_id, d.component, d.provider, d.model, d.currency, d.changed, coalesce(o.cost, 0), coalesce(o.cost, 0) + coalesce(d.cost, 0),
           coalesce(d.cost, 0), coalesce(o.charge, 0), coalesce(o.charge, 0) + coalesce(d.charge, 0), coalesce(d.charge, 0)
    FROM d LEFT JOIN o ON (o.account_id, o.component, o.provider, o.model, o.currency) IS NOT DISTINCT FROM
                          (d.account_id, d.component, d.provider, d.model, d.currency)
    ORDER BY 1, 2, 3, 4, 5;

    IF NOT dry_run AND cardinality(lines) > 0 THEN
        UPDATE toll.rated_sessions AS r SET billed_amount = coalesce(r.billed_amount, 0) + l.charge
        FROM unnest(lines) AS l WHERE l.component = 'tariff' AND r.session_id = l.session_id;
        DELETE FROM toll.unrated AS u USING unnest(lines) AS l
        WHERE u.event_id = l.event_id AND CASE u.side WHEN 'cost' THEN l.cost IS NOT NULL ELSE l.charge IS NOT NULL END;
        PERFORM toll.book_lines(lines, '{}');
    END IF;
END $$;
REVOKE ALL ON FUNCTION toll.rerate(timestamptz, timestamptz, boolean) FROM PUBLIC;
COMMENT ON FUNCTION toll.rerate(timestamptz, timestamptz, boolean) IS
    'Rates usage that occurred from from_at up to to_at anew, by the price book as it is now: what each account, component, provider and model cost and were charged,'
    ' would be, and the difference. dry_run false: writes the differences as lines of kind adjustment and debits or gives back; running it again adds nothing,'
    ' but for what was rated while it ran, perhaps by older prices. A dry run takes no locks: what is rated meanwhile may be in it or not.'
    ' Overage beyond plans stays as it is; a trial gets back what was waived of a charge that is lower now, and waives what is added as long as its allowance lasts. Errors: from_at not before to_at; more than 1,000,000 lines would change';
