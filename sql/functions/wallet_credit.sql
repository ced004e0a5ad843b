-- Available credit of wallets, and which live sessions are short of it.
--
-- Locks, in every function that changes a wallet: rated_sessions in session_id order, then all wallets that the transaction will touch, at
-- once, in (user_id, currency) order, then what belongs to a wallet (holds, ledger rows, toll.wallet_credit, toll.session_credit), which
-- nobody writes without the wallet's lock. A transaction that calls several of these functions for several accounts begins with
-- toll.lock_wallets() for all of them.

CREATE OR REPLACE FUNCTION toll.lock_wallets(accounts text[])
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.customer_balance AS b
    WHERE b.user_id = ANY (lock_wallets.accounts)
    ORDER BY b.user_id, b.currency
    FOR NO KEY UPDATE;
END $$;
REVOKE ALL ON FUNCTION toll.lock_wallets(text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.lock_wallets(text[]) IS
    'Locks every wallet of these accounts until the transaction ends, in the order that prevents deadlocks. Who calls several functions of'
    ' wallets in one transaction calls this first, with all accounts that they will touch. Accounts without a wallet are passed over';

CREATE OR REPLACE FUNCTION toll.available_credit(accounts text[], at timestamptz)
RETURNS TABLE (
    user_id text, currency text, balance numeric, threshold numeric, held numeric, started numeric, available numeric,
    started_minutes bigint, unpriced bigint, per_minute numeric, next_minute timestamptz, next_lapse timestamptz)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
-- An account may have one call or a hundred thousand: hashes are right for both.
SET enable_nestloop = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan -- planning would take ten times as long as this does
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH live AS MATERIALIZED (
        -- What each would be billed if it ended now, beyond what it was billed before it began anew.
        SELECT s.session_id, s.account_id, s.charge_by, s.plan_id, s.tariff_id, s.currency AS money, s.started_at, m.minutes,
               greatest(0, m.minutes - coalesce(s.billed_minutes, 0)) AS used,
               CASE s.charge_by WHEN 'minutes' THEN s.currency ELSE 'minutes' END AS wallet
        FROM toll.rated_sessions AS s
        CROSS JOIN LATERAL (
            SELECT greatest(1, (floor(extract(epoch FROM available_credit.at - s.started_at) * 1000)::bigint + 59999) / 60000)
        ) AS m (minutes)
        WHERE s.account_id = ANY (available_credit.accounts) AND s.ended_at IS NULL
          AND s.charge_by IN ('minutes', 'prepaid_minutes') AND s.voice
    ), tariff AS MATERIALIZED (
        SELECT k.account_id, k.plan_id, k.tariff_id, k.money,
               toll.tariff_price(k.account_id, k.plan_id, k.tariff_id, k.money, available_credit.at) AS price
        FROM (SELECT DISTINCT l.account_id, l.plan_id, l.tariff_id, l.money FROM live AS l WHERE l.charge_by = 'minutes') AS k
    ), used AS MATERIALIZED (
        SELECT l.session_id, l.account_id, l.wallet, l.used, l.started_at + l.minutes * interval '1 minute' + interval '1 ms' AS next_minute,
               CASE l.charge_by WHEN 'minutes' THEN t.price ELSE 1 END AS price
        FROM live AS l
        LEFT JOIN tariff AS t ON l.charge_by = 'minutes' AND t.account_id = l.account_id AND t.plan_id = l.plan_id AND t.tariff_id = l.tariff_id
            AND t.money = l.money
    ), started AS (
        SELECT u.account_id, u.wallet, sum(u.used * u.price) AS amount, sum(u.used)::bigint AS minutes, sum(u.price) AS per_minute,
               min(u.next_minute) AS next_minute, count(*) FILTER (WHERE u.price IS NULL) AS unpriced
        FROM used AS u
        GROUP BY u.account_id, u.wallet
    ), held AS (
        -- What a session has used of its hold: debits since, and the started minutes that it will be debited for.
        SELECT h.user_id, h.currency, min(h.expires_at) AS next_lapse,
               sum(greatest(0, h.amount - greatest(0, coalesce((SELECT s.debited FROM toll.rated_sessions AS s
                                                                WHERE s.session_id = h.session_id) - h.debited_before, 0))
                               - coalesce(u.used * u.price, 0))) AS amount
        FROM public.credit_holds AS h
        LEFT JOIN used AS u ON u.session_id = h.session_id
        WHERE h.user_id = ANY (available_credit.accounts) AND h.released_at IS NULL AND h.expires_at > available_credit.at
        GROUP BY h.user_id, h.currency
    )
    SELECT b.user_id, b.currency, b.balance, b.low_balance_threshold / 100.0, coalesce(h.amount, 0), coalesce(s.amount, 0),
           b.balance - coalesce(h.amount, 0) - coalesce(s.amount, 0), coalesce(s.minutes, 0), coalesce(s.unpriced, 0),
           coalesce(s.per_minute, 0), s.next_minute, h.next_lapse
    FROM public.customer_balance AS b
    LEFT JOIN held AS h ON h.user_id = b.user_id AND h.currency = b.currency
    LEFT JOIN started AS s ON s.account_id = b.user_id AND s.wallet = b.currency
    WHERE b.user_id = ANY (available_credit.accounts);
END $$;
REVOKE ALL ON FUNCTION toll.available_credit(text[], timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION toll.available_credit(text[], timestamptz) IS
    'The wallets of these accounts at that time, in units of currency (or minutes), exact: available = balance - held (what remains of open'
    ' holds) - started (minutes that live calls have begun, at the tariff''s price or as minutes). unpriced: live calls whose tariff has no'
    ' price, which started leaves out. per_minute, next_minute, next_lapse: what time will change, and from when';

CREATE OR REPLACE FUNCTION toll.tariff_price(account text, plan text, tariff text, currency text, at timestamptz)
RETURNS numeric
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    SELECT p.price / p.unit_quantity AS price, p.currency INTO found
    FROM (VALUES ('account', tariff_price.account, 1), ('plan', tariff_price.plan, 2), ('default', '*', 3)) AS s (kind, id, rank)
    JOIN public.pricing_config AS p ON p.scope_kind = s.kind AND p.scope_id = s.id
    WHERE p.component = 'tariff' AND p.dimension = 'minutes' AND p.side = 'charge' AND p.withdrawn_at IS NULL
      AND p.provider = '*' AND p.model = '*' AND p.variant IN (tariff_price.tariff, '*') AND p.valid @> tariff_price.at
    ORDER BY s.rank, p.variant = '*'
    LIMIT 1;
    IF found.currency <> tariff_price.currency THEN
        RETURN found.price * (SELECT f.rate FROM public.fx_rates AS f
                              WHERE f.from_currency = found.currency AND f.to_currency = tariff_price.currency
                                AND f.valid @> tariff_price.at);
    END IF;
    RETURN found.price;
END $$;
REVOKE ALL ON FUNCTION toll.tariff_price(text, text, text, text, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION toll.tariff_price(text, text, text, text, timestamptz) IS
    'What a minute of this tariff costs an account at a time, in this currency, not rounded to money. NULL: no price, or no exchange rate';

CREATE OR REPLACE FUNCTION toll.tell_crossings(accounts text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    crossed record;
BEGIN
    FOR crossed IN
        UPDATE public.customer_balance AS b SET is_low = NOT b.is_low
        WHERE b.user_id = ANY (tell_crossings.accounts) AND b.is_low <> (b.balance * 100 <= b.low_balance_threshold)
        RETURNING b.user_id, b.currency, b.balance, b.low_balance_threshold, b.auto_reload_enabled, b.is_low
    LOOP
        CONTINUE WHEN NOT crossed.is_low;
        INSERT INTO public.low_balance_alerts (user_id, currency, balance, threshold, auto_reload)
        VALUES (crossed.user_id, crossed.currency, crossed.balance, crossed.low_balance_threshold, crossed.auto_reload_enabled);
        PERFORM pg_notify('toll_low_balance', crossed.user_id);
        IF crossed.auto_reload_enabled THEN
            PERFORM pg_notify('toll_auto_reload', crossed.user_id);
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION toll.tell_crossings(text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.tell_crossings(text[]) IS
    'A row of low_balance_alerts and NOTIFY toll_low_balance (and toll_auto_reload), payload the user_id, for each wallet of these accounts'
    ' whose balance is at or below its threshold and was not before. The caller holds the wallets'' locks';

CREATE OR REPLACE FUNCTION toll.follow_credit(accounts text[], sessions uuid[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off -- plans are kept while tables grow
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    at      timestamptz;
    wallets text[];
    short   boolean;
    turned  text[];
BEGIN
    -- Where nothing is held and no minutes have begun, the balance is what is available: mostly nothing else is to be asked.
    SELECT array_agg(DISTINCT w.user_id) FILTER (WHERE w.settled IS NOT TRUE), bool_or(w.state <> 'ok')
    INTO wallets, short
    FROM (SELECT b.user_id, c.state,
                 c.state = CASE WHEN b.balance <= 0 THEN 'exhausted' WHEN b.balance * 100 <= b.low_balance_threshold THEN 'low' ELSE 'ok' END
                 AND b.is_low = (b.balance * 100 <= b.low_balance_threshold)
                 AND c.check_at IS NULL AND follow_credit.sessions IS NOT NULL
                 AND NOT EXISTS (SELECT FROM public.credit_holds AS h WHERE h.user_id = b.user_id AND h.released_at IS NULL OFFSET 0)
                 AND NOT EXISTS (SELECT FROM toll.rated_sessions AS s
                                 WHERE s.account_id = b.user_id AND s.ended_at IS NULL AND s.charge_by IN ('minutes', 'prepaid_minutes') OFFSET 0) AS settled
          FROM public.customer_balance AS b
          LEFT JOIN LATERAL (SELECT k.state, k.check_at FROM toll.wallet_credit AS k
                             WHERE k.user_id = b.user_id AND k.currency = b.currency OFFSET 0) AS c ON true
          WHERE b.user_id = ANY (follow_credit.accounts)) AS w;
    short := short AND follow_credit.sessions <> '{}';
    IF wallets IS NULL THEN
        RETURN CASE WHEN short THEN toll.mark_sessions(NULL, follow_credit.sessions) ELSE 0 END;
    END IF;
    at := clock_timestamp();
    PERFORM toll.tell_crossings(wallets);
    UPDATE public.credit_holds AS h SET released_at = h.expires_at
    WHERE h.user_id = ANY (wallets) AND h.released_at IS NULL AND h.expires_at <= at;

    WITH found AS MATERIALIZED (
        SELECT a.user_id, a.currency, s.state, c.state AS old_state, least(a.next_lapse, m.check_at) AS check_at, c.check_at AS old_check_at
        FROM toll.available_credit(wallets, at) AS a
        LEFT JOIN LATERAL (SELECT k.state, k.check_at FROM toll.wallet_credit AS k
                           WHERE k.user_id = a.user_id AND k.currency = a.currency OFFSET 0) AS c ON true
        CROSS JOIN LATERAL (
            SELECT CASE WHEN a.available <= 0 THEN 'exhausted' WHEN a.available <= a.threshold THEN 'low' ELSE 'ok' END
        ) AS s (state)
        -- Each call begins at most one minute in sixty seconds, none before next_minute. So many whole rounds stay above the next limit;
        -- but prices may change.
        CROSS JOIN LATERAL (
            SELECT CASE WHEN s.state <> 'exhausted' AND a.per_minute > 0 THEN
                least(a.next_minute + interval '1 minute' * least(10, ceil(
                    (a.available - CASE s.state WHEN 'ok' THEN a.threshold ELSE 0 END) / a.per_minute) - 1)::integer,
                      at + interval '4 min' + random() * interval '2 min')
            END
        ) AS m (check_at)
    ), kept AS (
        INSERT INTO toll.wallet_credit AS c (user_id, currency, state, check_at)
        SELECT f.user_id, f.currency, f.state, f.check_at FROM found AS f
        WHERE f.old_state IS DISTINCT FROM f.state OR f.old_check_at IS DISTINCT FROM f.check_at
        ON CONFLICT (user_id, currency) DO UPDATE SET state = excluded.state, check_at = excluded.check_at
    )
    -- A new wallet that is ok changes nothing.
    SELECT array_agg(DISTINCT f.user_id) INTO turned
    FROM found AS f
    WHERE f.state <> coalesce(f.old_state, 'ok');
    IF follow_credit.sessions IS NULL THEN
        turned := wallets;
    END IF;
    RETURN CASE WHEN turned IS NOT NULL OR short THEN toll.mark_sessions(turned, follow_credit.sessions) ELSE 0 END;
END $$;
REVOKE ALL ON FUNCTION toll.follow_credit(text[], uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.follow_credit(text[], uuid[]) IS
    'Compares the available credit of these accounts'' wallets with 0 and their thresholds; where that came out otherwise than the last time, brings'
    ' toll.session_credit of their live sessions to it, and else that of these sessions only: those that began, ended, got their account or turned out to be'
    ' calls in this transaction. NULL: of all, whatever came out. NOTIFY toll_credit where a session''s state changed; returns how many did. The caller'
    ' holds the wallets'' locks';

CREATE OR REPLACE FUNCTION toll.mark_sessions(accounts text[], sessions uuid[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- An account may have one call or a hundred thousand: hashes, and looking each up by its key (OFFSET 0), are right for both.
SET enable_nestloop = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
DECLARE
    changed bigint;
    removed bigint;
BEGIN
    WITH live AS (
        SELECT s.session_id, s.account_id, CASE s.charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE s.currency END AS wallet
        FROM toll.rated_sessions AS s
        WHERE s.account_id = ANY (mark_sessions.accounts) AND s.ended_at IS NULL
        UNION ALL
        SELECT s.session_id, s.account_id, CASE s.charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE s.currency END
        FROM (SELECT DISTINCT u.id FROM unnest(mark_sessions.sessions) AS u (id)) AS n
        -- Nothing but the key within: else the index of live sessions would do, all of it for each.
        CROSS JOIN LATERAL (SELECT r.session_id, r.account_id, r.charge_by, r.currency, r.ended_at FROM toll.rated_sessions AS r
                            WHERE r.session_id = n.id OFFSET 0) AS s
        WHERE s.ended_at IS NULL AND s.account_id <> ALL (coalesce(mark_sessions.accounts, '{}'))
    ), wallets AS MATERIALIZED (
        SELECT k.user_id, k.currency, c.state
        FROM (SELECT DISTINCT l.account_id AS user_id, l.wallet AS currency FROM live AS l) AS k
        CROSS JOIN LATERAL (SELECT w.state FROM toll.wallet_credit AS w
                            WHERE w.user_id = k.user_id AND w.currency = k.currency AND w.state <> 'ok' OFFSET 0) AS c
    ), short AS MATERIALIZED (
        SELECT l.session_id, l.account_id, w.state
        FROM live AS l JOIN wallets AS w ON w.user_id = l.account_id AND w.currency = l.wallet
    ), gone AS (
        DELETE FROM toll.session_credit AS o
        WHERE o.session_id = ANY (ARRAY(
            SELECT h.session_id FROM toll.session_credit AS h WHERE h.account_id = ANY (mark_sessions.accounts)
            UNION ALL SELECT u.id FROM unnest(mark_sessions.sessions) AS u (id)
            EXCEPT SELECT t.session_id FROM short AS t))
        RETURNING 1
    ), put AS (
        INSERT INTO toll.session_credit AS o (session_id, account_id, state)
        SELECT t.session_id, t.account_id, t.state
        FROM short AS t
        LEFT JOIN LATERAL (SELECT h.state FROM toll.session_credit AS h WHERE h.session_id = t.session_id OFFSET 0) AS h ON true
        WHERE t.state IS DISTINCT FROM h.state
        ON CONFLICT (session_id) DO UPDATE
            SET account_id = excluded.account_id, state = excluded.state, changed_at = excluded.changed_at
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM put), (SELECT count(*) FROM gone) INTO changed, removed;
    IF changed + removed > 0 THEN
        PERFORM pg_notify('toll_credit', '');
    END IF;
    RETURN changed + removed;
END $$;
REVOKE ALL ON FUNCTION toll.mark_sessions(text[], uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.mark_sessions(text[], uuid[]) IS
    'Brings toll.session_credit of all sessions of these accounts, and of these sessions, to what toll.wallet_credit says of their wallets; NOTIFY'
    ' toll_credit where it changed. Returns how many changed. The caller holds the wallets'' locks';

CREATE OR REPLACE FUNCTION toll.refresh_credit(accounts text[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM toll.lock_wallets(refresh_credit.accounts);
    RETURN toll.follow_credit(refresh_credit.accounts, NULL);
END $$;
REVOKE ALL ON FUNCTION toll.refresh_credit(text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.refresh_credit(text[]) IS
    'Compares the available credit of these accounts'' wallets with 0 and their thresholds, and brings toll.session_credit of all their live'
    ' sessions to that, whatever it was; NOTIFY toll_credit where it changed. For who changed something by hand: what changes a balance, a hold or a session'
    ' calls toll.follow_credit(). Returns how many sessions'' states changed. Locks the wallets: see toll.lock_wallets()';

CREATE OR REPLACE FUNCTION toll.check_credit()
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    due text[] := ARRAY(SELECT c.user_id FROM toll.wallet_credit AS c WHERE c.check_at <= now() ORDER BY c.check_at LIMIT 2000);
BEGIN
    IF due = '{}' THEN
        RETURN 0;
    END IF;
    PERFORM toll.lock_wallets(due);
    RETURN toll.follow_credit(due, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.check_credit() FROM PUBLIC;
COMMENT ON FUNCTION toll.check_credit() IS
    'To be called each second, in a transaction of its own: toll.follow_credit() for the accounts whose state may have changed by time alone:'
    ' live calls began another minute, a hold lapsed; a tariff''s new price is seen within six minutes. At most 2,000 wallets, those first that'
    ' wait longest. Returns how many sessions'' states changed';
