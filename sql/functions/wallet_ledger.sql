-- What is paid into wallets and corrected there: each call is one row of a ledger, known by the caller's transaction_id.
--
-- Errors come as {"success": false, "error": ...} and change nothing, so that any web layer can pass them on. A cent is a hundredth of the
-- wallet's unit. The order of locks is in wallet_credit.sql.

CREATE OR REPLACE FUNCTION toll.open_wallet(user_id text, currency text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The wallets it has come first: who holds their locks has all of this account's.
    PERFORM toll.lock_wallets(ARRAY[open_wallet.user_id]);
    INSERT INTO public.customer_balance (user_id, currency, is_low) VALUES (open_wallet.user_id, open_wallet.currency, true)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM toll.lock_wallets(ARRAY[open_wallet.user_id]);
        RETURN false;
    END IF;
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION toll.open_wallet(text, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.open_wallet(text, text) IS
    'Makes this wallet if it is not there, empty and known to be low, and locks all of the account''s. Returns whether it made it';

CREATE OR REPLACE FUNCTION toll.booked_before(transaction_id text, user_id text, amount numeric, kind text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old record;
BEGIN
    SELECT * INTO old FROM (
        SELECT c.user_id, c.currency, c.amount, c.amount_cents, c.transaction_type AS kind FROM public.credit_transactions AS c
        WHERE c.transaction_id = booked_before.transaction_id
        UNION ALL
        SELECT w.user_id, w.currency, w.minutes_delta, NULL, w.type || ' of minutes' FROM public.wallet_transactions AS w
        WHERE w.transaction_id = booked_before.transaction_id) AS o;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF old.user_id <> booked_before.user_id OR old.amount <> booked_before.amount OR old.kind <> booked_before.kind THEN
        -- Not with which: who asks may be somebody else.
        RETURN toll.refusal(format('transaction_id %s was booked before with another user, amount or kind',
            booked_before.transaction_id));
    END IF;
    RETURN (SELECT jsonb_build_object('success', true, 'data', jsonb_build_object(
                'transaction_id', booked_before.transaction_id, 'user_id', b.user_id, 'currency', b.currency,
                'amount', trim_scale(old.amount), 'amount_cents', old.amount_cents, 'balance', trim_scale(b.balance),
                'balance_cents', b.balance_cents, 'repeated', true))
            FROM public.customer_balance AS b WHERE b.user_id = old.user_id AND b.currency = old.currency);
END $$;
REVOKE ALL ON FUNCTION toll.booked_before(text, text, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.booked_before(text, text, numeric, text) IS
    'What to answer to a transaction_id that is in a ledger: success where user, amount and kind are the same, else an error. NULL: it is not';

CREATE OR REPLACE FUNCTION toll.refusal(reason text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jsonb_build_object('success', false, 'error', refusal.reason) $$;
REVOKE ALL ON FUNCTION toll.refusal(text) FROM PUBLIC;
COMMENT ON FUNCTION toll.refusal(text) IS 'An error for a web layer to pass on';

CREATE OR REPLACE FUNCTION toll.book_credit(
    user_id text, minutes boolean, amount numeric, kind text, reference_id text, payment_method text, transaction_id text)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wallet text;
    cents  bigint;
    answer jsonb;
    held   public.customer_balance;
BEGIN
    IF book_credit.transaction_id IS NULL OR book_credit.transaction_id = '' OR octet_length(book_credit.transaction_id) > 256 THEN
        RETURN toll.refusal('transaction_id must be 1 to 256 bytes long');
    ELSIF starts_with(book_credit.transaction_id, 'toll:') THEN
        RETURN toll.refusal('a transaction_id that begins with "toll:" is not yours to give');
    ELSIF octet_length(book_credit.reference_id) > 1024 OR octet_length(book_credit.payment_method) > 1024 THEN
        RETURN toll.refusal('reference_id and payment_method must be 1024 bytes long at most');
    END IF;
    SELECT CASE WHEN book_credit.minutes THEN 'minutes' ELSE a.currency END INTO wallet
    FROM public.accounts AS a WHERE a.account_id = book_credit.user_id;
    IF NOT FOUND THEN
        RETURN toll.refusal(coalesce('unknown user ' || book_credit.user_id, 'user_id is missing'));
    END IF;

    PERFORM toll.lock_wallets(ARRAY[book_credit.user_id]);
    answer := toll.booked_before(book_credit.transaction_id, book_credit.user_id, book_credit.amount,
                                 book_credit.kind || CASE WHEN book_credit.minutes THEN ' of minutes' ELSE '' END);
    IF answer IS NOT NULL THEN
        RETURN answer;
    END IF;
    IF book_credit.kind = 'purchase' THEN
        PERFORM toll.open_wallet(book_credit.user_id, wallet);
    END IF;
    SELECT * INTO held FROM public.customer_balance AS b WHERE b.user_id = book_credit.user_id AND b.currency = wallet;
    IF NOT FOUND THEN
        RETURN toll.refusal(format('user %s has no wallet in %s: create_wallet() or a purchase opens one', book_credit.user_id, wallet));
    ELSIF abs(held.balance + book_credit.amount) >= 1e11 THEN
        RETURN toll.refusal('the balance would be 100000000000 or more');
    END IF;

    -- Who uses the same transaction_id for another user at this moment is waited for.
    IF book_credit.minutes THEN
        INSERT INTO public.wallet_transactions (
            transaction_id, user_id, minutes_delta, balance_after, type, reference_id, payment_method)
        VALUES (book_credit.transaction_id, book_credit.user_id, book_credit.amount, held.balance + book_credit.amount, book_credit.kind,
                book_credit.reference_id, book_credit.payment_method)
        ON CONFLICT DO NOTHING;
    ELSE
        cents := floor((held.balance + book_credit.amount) * 100) - floor(held.balance * 100);
        INSERT INTO public.credit_transactions (
            transaction_id, user_id, currency, amount, amount_cents, balance_after, transaction_type, reference_id, payment_method)
        VALUES (book_credit.transaction_id, book_credit.user_id, wallet, book_credit.amount, cents, held.balance + book_credit.amount,
                book_credit.kind, book_credit.reference_id, book_credit.payment_method)
        ON CONFLICT DO NOTHING;
    END IF;
    IF NOT FOUND THEN
        RETURN toll.booked_before(book_credit.transaction_id, book_credit.user_id, book_credit.amount,
                                  book_credit.kind || CASE WHEN book_credit.minutes THEN ' of minutes' ELSE '' END);
    END IF;
    UPDATE public.customer_balance AS b SET balance = b.balance + book_credit.amount, updated_at = clock_timestamp()
    WHERE b.user_id = book_credit.user_id AND b.currency = wallet
    RETURNING b.* INTO held;
    PERFORM toll.follow_credit(ARRAY[book_credit.user_id], '{}');
    RETURN jsonb_build_object('success', true, 'data', jsonb_build_object(
        'transaction_id', book_credit.transaction_id, 'user_id', book_credit.user_id, 'currency', wallet,
        'amount', trim_scale(book_credit.amount), 'amount_cents', cents, 'balance', trim_scale(held.balance),
        'balance_cents', held.balance_cents, 'repeated', false));
END $$;
REVOKE ALL ON FUNCTION toll.book_credit(text, boolean, numeric, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.book_credit(text, boolean, numeric, text, text, text, text) IS
    'Books an amount, which the caller has checked, in the account''s wallet of money or of minutes: see add_credits()';

CREATE OR REPLACE FUNCTION toll.book_cents(user_id text, amount_cents numeric, least_cents numeric, kind text, reference_id text,
                                           payment_method text, transaction_id text)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- NaN is greater than any number.
    IF book_cents.amount_cents IS NULL OR book_cents.amount_cents = 0
        OR book_cents.amount_cents NOT BETWEEN book_cents.least_cents AND 1000000000000 THEN
        RETURN toll.refusal(format('amount_cents must be a whole number from %s to 1000000000000%s, not %s',
            book_cents.least_cents, CASE WHEN book_cents.least_cents < 0 THEN ', other than 0' ELSE '' END, coalesce(book_cents.amount_cents::text, 'NULL')));
    ELSIF book_cents.amount_cents <> trunc(book_cents.amount_cents) THEN
        RETURN toll.refusal(format('amount_cents must be a whole number, not %s', book_cents.amount_cents));
    END IF;
    RETURN toll.book_credit(book_cents.user_id, false, round(book_cents.amount_cents) / 100, book_cents.kind, book_cents.reference_id,
                            book_cents.payment_method, book_cents.transaction_id);
END $$;
REVOKE ALL ON FUNCTION toll.book_cents(text, numeric, numeric, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.book_cents(text, numeric, numeric, text, text, text, text) IS
    'Checks an amount in cents and books it in the account''s wallet of money: see add_credits()';

CREATE OR REPLACE FUNCTION toll.book_minutes(user_id text, minutes numeric, least_minutes numeric, kind text, reference_id text,
                                             payment_method text, transaction_id text)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF book_minutes.minutes IS NULL OR book_minutes.minutes = 0
        OR book_minutes.minutes NOT BETWEEN book_minutes.least_minutes AND 10000000000 THEN
        RETURN toll.refusal(format('minutes must be a number above %s, up to 10000000000%s, not %s',
            trunc(book_minutes.least_minutes), CASE WHEN book_minutes.least_minutes < 0 THEN ', other than 0' ELSE '' END, coalesce(book_minutes.minutes::text, 'NULL')));
    ELSIF book_minutes.minutes <> round(book_minutes.minutes, 9) THEN
        RETURN toll.refusal(format('minutes must have nine decimals at most, not %s', book_minutes.minutes));
    END IF;
    RETURN toll.book_credit(book_minutes.user_id, true, round(book_minutes.minutes, 9), book_minutes.kind, book_minutes.reference_id,
                            book_minutes.payment_method, book_minutes.transaction_id);
END $$;
REVOKE ALL ON FUNCTION toll.book_minutes(text, numeric, numeric, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.book_minutes(text, numeric, numeric, text, text, text, text) IS
    'Checks a number of minutes and books it in the account''s wallet of minutes: see add_minutes()';

CREATE OR REPLACE FUNCTION public.add_credits(user_id text, amount_cents numeric, payment_method text, transaction_id text)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT toll.book_cents(add_credits.user_id, add_credits.amount_cents, 1, 'purchase', NULL, add_credits.payment_method,
                           add_credits.transaction_id)
$$;
REVOKE ALL ON FUNCTION public.add_credits(text, numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.add_credits(text, numeric, text, text) IS
    'Tops up the account''s wallet of money, and opens it if there is none. amount_cents: whole hundredths of its currency''s unit, 1 to 10^12.'
    ' Live sessions get their credit back in the same transaction. {"success": true, "data": {transaction_id, user_id, currency, amount,'
    ' amount_cents, balance, balance_cents (rounded down), repeated}}. The same transaction_id again with the same user and amount: success,'
    ' repeated true, nothing changes. {"success": false, "error"}: unknown user; an amount out of range; a transaction_id that is missing,'
    ' longer than 256 bytes, begins with toll:, or was booked with other values';

CREATE OR REPLACE FUNCTION public.refund_credits(user_id text, amount_cents numeric, reference_id text, transaction_id text)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT toll.book_cents(refund_credits.user_id, refund_credits.amount_cents, 1, 'refund', refund_credits.reference_id, NULL,
                           refund_credits.transaction_id)
$$;
REVOKE ALL ON FUNCTION public.refund_credits(text, numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.refund_credits(text, numeric, text, text) IS
    'Gives back to the account''s wallet of money what it was debited wrongly; reference_id says for what. amount_cents: whole hundredths of its'
    ' currency''s unit, 1 to 10^12. Result, repetition and errors as of add_credits(); without a wallet: an error';

CREATE OR REPLACE FUNCTION public.adjust_credits(user_id text, amount_cents numeric, reason text, transaction_id text)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT toll.book_cents(adjust_credits.user_id, adjust_credits.amount_cents, -1000000000000, 'adjustment', adjust_credits.reason, NULL,
                           adjust_credits.transaction_id)
$$;
REVOKE ALL ON FUNCTION public.adjust_credits(text, numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.adjust_credits(text, numeric, text, text) IS
    'Corrects the account''s wallet of money upwards or downwards, below zero too; the reason becomes the row''s reference_id. amount_cents: whole'
    ' hundredths of its currency''s unit, -10^12 to 10^12, not 0. Result, repetition and errors as of add_credits(); without a wallet: an error';

CREATE OR REPLACE FUNCTION public.add_minutes(user_id text, minutes numeric, payment_method text, transaction_id text)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT toll.book_minutes(add_minutes.user_id, add_minutes.minutes, 0.000000001, 'purchase', NULL, add_minutes.payment_method,
                             add_minutes.transaction_id)
$$;
REVOKE ALL ON FUNCTION public.add_minutes(text, numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.add_minutes(text, numeric, text, text) IS
    'Tops up the account''s wallet of prepaid minutes, and opens it if there is none. minutes: above 0, up to 10^10, nine decimals at most.'
    ' Result (currency "minutes", balance in minutes, balance_cents in hundredths, amount_cents null), repetition and errors as of add_credits()';

CREATE OR REPLACE FUNCTION public.adjust_minutes(user_id text, minutes numeric, reason text, transaction_id text)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT toll.book_minutes(adjust_minutes.user_id, adjust_minutes.minutes, -10000000000, 'adjustment', adjust_minutes.reason, NULL,
                             adjust_minutes.transaction_id)
$$;
REVOKE ALL ON FUNCTION public.adjust_minutes(text, numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION public.adjust_minutes(text, numeric, text, text) IS
    'Corrects the account''s wallet of prepaid minutes upwards or downwards; the reason becomes the row''s reference_id. minutes: -10^10 to 10^10,'
    ' not 0, nine decimals at most. Result, repetition and errors as of add_minutes(); without a wallet: an error';
