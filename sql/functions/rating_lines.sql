-- Writing lines. Every line is written here, so that roll-ups and debits are always those of the lines.

CREATE OR REPLACE FUNCTION toll.write_lines(batch bigint, lines toll.rated_line[])
RETURNS toll.session_debit[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_sort = off -- groups by hashing, however few lines the planner thinks of
SET jit = off
SET work_mem = '64MB'
AS $$
DECLARE
    debits  toll.session_debit[];
    unrated boolean;
BEGIN
    WITH l AS MATERIALIZED (
        SELECT u.*, date_bin('15 minutes', u.occurred_at, '2000-01-01 00:00:00+00') AS quarter
        FROM unnest(write_lines.lines) AS u
    ), written AS (
        INSERT INTO public.billing_charges (
            event_id, occurred_at, session_id, account_id, component, provider, model, quantities, cost_original, cost_currency, cost, charge,
            waived, currency, cost_price_ids, charge_price_ids, kind, reason, booked_at, batch)
        SELECT
            l.event_id, l.occurred_at, l.session_id, l.account_id, l.component, l.provider, l.model, l.quantities, l.cost_original,
            l.cost_currency, l.cost, l.charge, l.waived, l.currency, l.cost_price_ids, l.charge_price_ids, l.kind, l.reason,
            CASE WHEN l.occurred_at < l.closed_until THEN greatest(now(), l.closed_until) ELSE l.occurred_at END, write_lines.batch
        FROM l
        WHERE l.kind IS NOT NULL
    ), sums AS MATERIALIZED (
        SELECT
            coalesce(l.account_id, '') AS account_id, l.quarter, l.business_id, l.component, coalesce(l.provider, '') AS provider,
            coalesce(l.model, '') AS model, l.currency, sum(l.events) AS events, sum(l.sessions) AS sessions, sum(l.input_tokens) AS input_tokens,
            sum(l.cached_input_tokens) AS cached_input_tokens, sum(l.output_tokens) AS output_tokens, sum(l.characters) AS characters,
            sum(l.audio_us) AS audio_us, coalesce(sum(l.quantity), 0) AS quantity, coalesce(sum(l.cost), 0) AS cost,
            coalesce(sum(l.charge), 0) AS charge, sum(l.waived) AS waived, sum(l.unrated_cost) AS unrated_cost, sum(l.unrated_charge) AS unrated_charge
        FROM l
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    ), rolled AS (
        INSERT INTO toll.usage_rollup AS r (
            account_id, quarter, business_id, component, provider, model, currency, events, sessions, input_tokens, cached_input_tokens,
            output_tokens, characters, audio_us, quantity, cost, charge, waived, unrated_cost, unrated_charge)
        SELECT s.* FROM sums AS s
        -- One order for all who write; this one needs no locale.
        ORDER BY s.account_id COLLATE "C", s.quarter, s.business_id COLLATE "C", s.component COLLATE "C", s.provider COLLATE "C", s.model COLLATE "C",
                 s.currency COLLATE "C"
        ON CONFLICT (account_id, quarter, business_id, component, provider, model, currency) DO UPDATE SET
            events = r.events + excluded.events, sessions = r.sessions + excluded.sessions,
            input_tokens = r.input_tokens + excluded.input_tokens,
            cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
            output_tokens = r.output_tokens + excluded.output_tokens, characters = r.characters + excluded.characters,
            audio_us = r.audio_us + excluded.audio_us, quantity = r.quantity + excluded.quantity, cost = r.cost + excluded.cost,
            charge = r.charge + excluded.charge, waived = r.waived + excluded.waived,
            unrated_cost = r.unrated_cost + excluded.unrated_cost, unrated_charge = r.unrated_charge + excluded.unrated_charge
    )
    SELECT array_agg(ROW(d.account_id, d.session_id, d.currency, d.amount)::toll.session_debit),
           EXISTS (SELECT FROM l WHERE l.cost_missing IS NOT NULL OR l.charge_missing IS NOT NULL)
    INTO debits, unrated
    FROM (SELECT l.account_id, l.session_id, CASE WHEN l.minutes IS NULL THEN l.currency ELSE 'minutes' END AS currency,
                 sum(CASE WHEN l.minutes IS NULL THEN l.charge - l.waived ELSE l.minutes END) AS amount
          FROM l
          WHERE l.account_id IS NOT NULL AND CASE WHEN l.minutes IS NULL THEN l.charge <> 0 ELSE l.minutes <> 0 END
          GROUP BY 1, 2, 3) AS d
    WHERE d.amount <> 0;
    IF unrated THEN
        INSERT INTO toll.unrated (event_id, side, occurred_at, session_id, account_id, component, provider, model, variant, missing)
        SELECT l.event_id, m.side, l.occurred_at, l.session_id, l.account_id, l.component, l.provider, l.model, l.variant, m.missing
        FROM unnest(write_lines.lines) AS l
        CROSS JOIN LATERAL (VALUES ('cost', l.cost_missing), ('charge', l.charge_missing)) AS m (side, missing)
        WHERE m.missing IS NOT NULL AND l.event_id IS NOT NULL
        ON CONFLICT (event_id, side) DO UPDATE SET account_id = excluded.account_id, missing = excluded.missing;
    END IF;
    RETURN coalesce(debits, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.write_lines(bigint, toll.rated_line[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.write_lines(bigint, toll.rated_line[]) IS
    'Writes lines of one rated batch, what is unrated of them, and their roll-ups. Returns what wallets are to be debited for them (negative: given back): per'
    ' account and session; for toll.debit';

CREATE OR REPLACE FUNCTION toll.book_lines(lines toll.rated_line[], sessions uuid[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
SET work_mem = '64MB'
AS $$
DECLARE
    batch    bigint := nextval('toll.rated_batch_seq');
    booked   toll.rated_line[] := book_lines.lines;
    payers   text[];
    changed  text[];
    locked   text[];
    reported text[];
    meters   text[]; -- that they report for the first time
    dear     text[];
    debits   toll.session_debit[];
BEGIN
    SELECT array_agg(p.account_id), array_agg(p.account_id) FILTER (WHERE p.planned OR p.returned), array_agg(p.account_id) FILTER (WHERE p.reported),
           array_agg(p.account_id) FILTER (WHERE p.charge >= 1e9 OR p.planned)
    INTO payers, changed, reported, dear
    FROM (SELECT l.account_id, sum(l.charge) AS charge, bool_or(l.reason = 'plan') AS planned, bool_or(l.waived < 0) AS returned,
                 bool_or(l.component = 'meter' AND l.kind = 'usage' AND l.model IN ('api_call', 'voice_minute')) AS reported
          FROM unnest(booked) AS l WHERE l.account_id IS NOT NULL GROUP BY l.account_id) AS p;
    IF reported IS NOT NULL THEN
        SELECT array_agg(n.account_id), array_agg(n.model) INTO reported, meters
        FROM (SELECT DISTINCT l.account_id, l.model FROM unnest(booked) AS l
              WHERE l.component = 'meter' AND l.kind = 'usage' AND l.model IN ('api_call', 'voice_minute') AND l.account_id = ANY (reported)) AS n
        -- OFFSET 0: by its key, whatever the planner thinks of the table.
        WHERE NOT EXISTS (SELECT FROM public.accounts AS k WHERE k.account_id = n.account_id AND n.model = ANY (k.reported_meters) OFFSET 0);
    END IF;
    -- All accounts that are written, at once and in one order.
    locked := toll.lock_schemes(payers, changed || reported);
    IF cardinality(locked) > 0 THEN
        booked := toll.waive_trials(toll.add_overage(booked), locked);
    END IF;
    IF dear IS NOT NULL OR EXISTS (SELECT FROM public.customer_balance AS b WHERE b.user_id = ANY (payers) AND b.balance < -9e10) THEN
        booked := toll.spare_wallets(booked);
    END IF;
    IF reported IS NOT NULL THEN
        -- Others may have noted some before the lock was granted.
        UPDATE public.accounts AS a
        SET reported_meters = ARRAY(SELECT unnest(a.reported_meters)
                                    UNION SELECT u.meter FROM unnest(reported, meters) AS u (account_id, meter) WHERE u.account_id = a.account_id ORDER BY 1)
        WHERE a.account_id = ANY (reported);
    END IF;
    debits := toll.write_lines(batch, booked);

    -- Wallets last, so that they are locked for as short as can be; all at once.
    IF cardinality(debits) > 0 OR cardinality(book_lines.sessions) > 0 THEN
        PERFORM toll.settle_wallets(batch, debits, book_lines.sessions);
    END IF;
    RETURN cardinality(booked);
END $$;
REVOKE ALL ON FUNCTION toll.book_lines(toll.rated_line[], uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.book_lines(toll.rated_line[], uuid[]) IS
    'One rated batch: applies plans and trials to these lines, writes them, and debits the wallets; holds and credit of these sessions (begun, resolved, ended) follow.'
    ' Returns how many lines. Once in a transaction';
