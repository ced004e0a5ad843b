-- What rating does to wallets: debits, and the holds of sessions. The order of locks is in wallet_credit.sql.

COMMENT ON COLUMN toll.rated_sessions.debited IS
    'What the wallet was debited for it, in the wallet''s unit: of sessions that name a hold (hold_id), of which it is taken off. Of others: 0, see the ledgers''; reference_id';

-- As they were when each looked for sessions with a hold.
DROP FUNCTION IF EXISTS toll.book_debits(bigint, toll.session_debit[], text[]);
DROP FUNCTION IF EXISTS toll.lock_debits(toll.session_debit[], text[]);
CREATE OR REPLACE FUNCTION toll.book_debits(batch bigint, debits toll.session_debit[], accounts text[], holding uuid[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off -- plans are kept while tables grow
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(book_debits.debits) AS d
               WHERE d.amount IS NULL OR d.amount IN ('NaN', 'Infinity', '-Infinity') OR d.amount <> round(d.amount, 9)) THEN
        RAISE EXCEPTION 'toll: debit: an amount is not a number of up to nine decimals' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- What each booking leaves follows from those before it; the balance is updated once.
    WITH wanted AS MATERIALIZED (
        SELECT d.account_id, d.currency, d.session_id, sum(d.amount) AS amount
        FROM unnest(book_debits.debits) AS d
        -- IS TRUE: hashed, for each may be thousands.
        WHERE (d.account_id IN (SELECT unnest(book_debits.accounts))) IS TRUE
        GROUP BY d.account_id, d.currency, d.session_id
        HAVING sum(d.amount) <> 0
    ), booked AS MATERIALIZED (
        SELECT w.account_id, w.currency, w.session_id, w.amount,
               format('toll:%s:%s', book_debits.batch, coalesce(w.session_id::text, w.account_id)) ||
                   -- An account's currency can have changed since earlier usage that is corrected now.
                   CASE WHEN row_number() OVER twin = 1 THEN '' ELSE ':' || w.currency END AS transaction_id,
               b.place,
               b.balance - sum(w.amount) OVER wallet AS after,
               b.balance - sum(w.amount) OVER wallet + w.amount AS before
        FROM wanted AS w
        CROSS JOIN LATERAL (SELECT c.balance, c.ctid AS place FROM public.customer_balance AS c
                            WHERE c.user_id = w.account_id AND c.currency = w.currency OFFSET 0) AS b
        WINDOW wallet AS (PARTITION BY w.account_id, w.currency ORDER BY w.session_id ROWS UNBOUNDED PRECEDING),
               twin AS (PARTITION BY w.account_id, w.session_id, w.currency = 'minutes' ORDER BY w.currency)
    ), money AS (
        INSERT INTO public.credit_transactions (
            transaction_id, user_id, currency, amount, amount_cents, balance_after, transaction_type, reference_id)
        SELECT k.transaction_id, k.account_id, k.currency, -k.amount, floor(k.after * 100) - floor(k.before * 100), k.after,
               CASE WHEN k.amount > 0 THEN 'deduction' ELSE 'adjustment' END, k.session_id::text
        FROM booked AS k
        WHERE k.currency <> 'minutes'
    ), minutes AS (
        INSERT INTO public.wallet_transactions (
            transaction_id, user_id, minutes_delta, balance_after, type, reference_id)
        SELECT k.transaction_id, k.account_id, -k.amount, k.after, CASE WHEN k.amount > 0 THEN 'usage' ELSE 'adjustment' END,
               k.session_id::text
        FROM booked AS k
        WHERE k.currency = 'minutes'
    ), debited AS (
        UPDATE toll.rated_sessions AS s SET debited = s.debited + k.amount
        FROM (SELECT t.session_id, sum(t.amount) AS amount FROM booked AS t
              -- Nobody asks what other sessions were debited: their rows stay as they are.
              WHERE (t.session_id IN (SELECT unnest(book_debits.holding))) IS TRUE GROUP BY t.session_id) AS k
        CROSS JOIN LATERAL (SELECT r.ctid AS place FROM toll.rated_sessions AS r WHERE r.session_id = k.session_id OFFSET 0) AS f
        WHERE s.ctid = f.place
    ), total AS (
        SELECT k.place, sum(k.amount) AS amount FROM booked AS k GROUP BY k.place
    )
    UPDATE public.customer_balance AS b SET balance = b.balance - t.amount, updated_at = clock_timestamp()
    FROM total AS t
    WHERE b.ctid = t.place; -- all these rows are locked, so they stay there
END $$;
REVOKE ALL ON FUNCTION toll.book_debits(bigint, toll.session_debit[], text[], uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.book_debits(bigint, toll.session_debit[], text[], uuid[]) IS
    'What toll.debit() does, but for refreshing credit, to those of these accounts, whose wallets the caller has locked, and these sessions with a hold'
    ' (toll.lock_debits)';

CREATE OR REPLACE FUNCTION toll.lock_debits(debits toll.session_debit[], others text[], OUT accounts text[], OUT holding uuid[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    accounts := ARRAY(
        SELECT DISTINCT b.user_id FROM public.customer_balance AS b
        WHERE b.user_id = ANY (ARRAY(SELECT d.account_id FROM unnest(lock_debits.debits) AS d UNION SELECT unnest(lock_debits.others))));
    holding := ARRAY(
        SELECT s.session_id FROM toll.rated_sessions AS s
        WHERE s.session_id = ANY (ARRAY(SELECT d.session_id FROM unnest(lock_debits.debits) AS d
                                        WHERE (d.account_id IN (SELECT unnest(lock_debits.accounts))) IS TRUE))
          AND s.hold_id IS NOT NULL -- the others are not written
        ORDER BY s.session_id FOR NO KEY UPDATE);
    PERFORM toll.lock_wallets(accounts);
END $$;
REVOKE ALL ON FUNCTION toll.lock_debits(toll.session_debit[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.lock_debits(toll.session_debit[], text[]) IS
    'Locks, in the order of wallet_credit.sql, what these debits change, and the wallets of these other accounts. accounts: those of all these that have'
    ' wallets; holding: those sessions of the debits that name a hold';

CREATE OR REPLACE FUNCTION toll.debit(batch bigint, debits toll.session_debit[])
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    locked record := toll.lock_debits(debit.debits, '{}');
BEGIN
    PERFORM toll.book_debits(debit.batch, debit.debits, locked.accounts, locked.holding);
    PERFORM toll.follow_credit(locked.accounts, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.debit(bigint, toll.session_debit[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.debit(bigint, toll.session_debit[]) IS
    'Debits wallets (gives back, where an amount is negative), one ledger row for each account, session'
    ' and wallet, transaction_id toll:<batch>:<session or account>, and refreshes the credit of these accounts. Amounts are added exactly, up to'
    ' nine decimals; amounts that cancel out leave no row. Where there is no such wallet the account is postpaid: passed over. Balances may'
    ' become negative. Error: an amount that is no such number; a batch that has debited the same before (unique violation)';

CREATE OR REPLACE FUNCTION toll.settle_wallets(batch bigint, debits toll.session_debit[], sessions uuid[])
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    accounts text[];
    holding  uuid[];
    ended    uuid[];
    locked   record;
BEGIN
    SELECT array_agg(DISTINCT s.account_id), array_agg(s.session_id) FILTER (WHERE s.hold_id IS NOT NULL),
           array_agg(s.session_id) FILTER (WHERE s.hold_id IS NOT NULL AND s.ended_at IS NOT NULL)
    INTO accounts, holding, ended
    FROM toll.rated_sessions AS s WHERE s.session_id = ANY (settle_wallets.sessions) AND s.account_id IS NOT NULL;
    locked := toll.lock_debits(settle_wallets.debits, accounts);
    IF locked.accounts = '{}' THEN
        RETURN;
    END IF;
    IF holding IS NOT NULL THEN
        PERFORM toll.link_holds(holding);
    END IF;
    IF cardinality(settle_wallets.debits) > 0 THEN
        PERFORM toll.book_debits(settle_wallets.batch, settle_wallets.debits, locked.accounts, locked.holding);
    END IF;
    IF ended IS NOT NULL THEN
        PERFORM toll.release_holds(ended);
    END IF;
    PERFORM toll.follow_credit(locked.accounts, settle_wallets.sessions);
END $$;
REVOKE ALL ON FUNCTION toll.settle_wallets(bigint, toll.session_debit[], uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.settle_wallets(bigint, toll.session_debit[], uuid[]) IS
    'For rating, once in each rated batch and last: what toll.debit() does; links and releases the holds of these sessions (begun, resolved, ended), and brings their'
    ' credit up to date';

CREATE OR REPLACE FUNCTION toll.link_holds(sessions uuid[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    linked bigint;
BEGIN
    PERFORM toll.lock_wallets(ARRAY(
        SELECT DISTINCT s.account_id FROM toll.rated_sessions AS s
        WHERE s.session_id = ANY (link_holds.sessions) AND s.hold_id IS NOT NULL AND s.account_id IS NOT NULL));
    UPDATE public.credit_holds AS h SET session_id = s.session_id, debited_before = s.debited
    FROM (SELECT DISTINCT ON (r.hold_id) r.hold_id, r.session_id, r.account_id, r.debited
          FROM toll.rated_sessions AS r
          WHERE r.session_id = ANY (link_holds.sessions) AND r.hold_id IS NOT NULL
          ORDER BY r.hold_id, r.started_at, r.session_id) AS s
    CROSS JOIN LATERAL (SELECT k.ctid AS place FROM public.credit_holds AS k WHERE k.hold_id = s.hold_id OFFSET 0) AS f
    WHERE h.ctid = f.place -- its wallet is locked, so it stays there
      AND h.user_id = s.account_id AND h.session_id IS NULL AND h.released_at IS NULL;
    GET DIAGNOSTICS linked = ROW_COUNT;
    RETURN linked;
END $$;
REVOKE ALL ON FUNCTION toll.link_holds(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.link_holds(uuid[]) IS
    'For rating: the holds that these sessions name (rated_sessions.hold_id) are theirs from now on, before they are debited. A hold of another'
    ' account, one that has a session, and one that has ended are left alone. Returns how many were linked';

CREATE OR REPLACE FUNCTION toll.release_holds(sessions uuid[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    accounts text[];
    released bigint;
BEGIN
    -- Nothing but the key within: else the index of open holds would do, all of it for each.
    SELECT array_agg(DISTINCT h.user_id) INTO accounts
    FROM unnest(release_holds.sessions) AS u (id)
    CROSS JOIN LATERAL (SELECT k.user_id, k.released_at FROM public.credit_holds AS k WHERE k.session_id = u.id OFFSET 0) AS h
    WHERE h.released_at IS NULL;
    IF accounts IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM toll.lock_wallets(accounts);
    UPDATE public.credit_holds AS h SET released_at = least(clock_timestamp(), h.expires_at)
    FROM unnest(release_holds.sessions) AS u (id)
    CROSS JOIN LATERAL (SELECT k.ctid AS place FROM public.credit_holds AS k WHERE k.session_id = u.id OFFSET 0) AS f
    WHERE h.ctid = f.place -- its wallet is locked, so it stays there
      AND h.released_at IS NULL;
    GET DIAGNOSTICS released = ROW_COUNT;
    PERFORM toll.follow_credit(accounts, '{}');
    RETURN released;
END $$;
REVOKE ALL ON FUNCTION toll.release_holds(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.release_holds(uuid[]) IS
    'For rating: these sessions ended and were debited; what remains of their holds is available again, and the credit of their accounts'
    ' refreshed. Returns how many holds ended';
