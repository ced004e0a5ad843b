-- What an account used and paid in a time: its lines, in what its scheme charges, beside the ledgers of its wallets.

CREATE OR REPLACE FUNCTION public.account_statement(account_id text, from_at timestamptz, to_at timestamptz)
RETURNS TABLE (
    record text, at timestamptz, occurred_at timestamptz, id text, session_id uuid, event_id bigint, kind text, component text, provider text,
    model text, quantities jsonb, charge numeric, waived numeric, due numeric, amount numeric, balance_after numeric, currency text, note text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM public.accounts AS a WHERE a.account_id = account_statement.account_id) THEN
        RAISE EXCEPTION 'toll: there is no account %', coalesce(account_statement.account_id, 'NULL') USING ERRCODE = 'no_data_found';
    ELSIF from_at IS NULL OR to_at IS NULL THEN
        RAISE EXCEPTION 'toll: say from when to when' USING ERRCODE = 'invalid_parameter_value';
    ELSIF from_at > to_at THEN
        RAISE EXCEPTION 'toll: from % is after to %', from_at, to_at USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    SELECT q.*
    FROM (
        SELECT 'line' AS record, c.booked_at AS at, c.occurred_at, c.line_id::text AS id, c.session_id, c.event_id, c.kind, c.component, c.provider,
               c.model, c.quantities, CASE WHEN m.due IS NULL THEN c.charge ELSE m.billed END,
               CASE WHEN m.due IS NULL THEN c.waived ELSE m.billed - m.due END, CASE WHEN m.due IS NULL THEN c.charge - c.waived ELSE m.due END,
               NULL::numeric, NULL::numeric, CASE WHEN m.due IS NULL THEN c.currency ELSE 'minutes' END, c.reason
        FROM public.billing_charges AS c
        -- Minutes are due in minutes: what this line adds to those of its call, as a wallet of minutes is debited them.
        LEFT JOIN LATERAL (
            SELECT d.billed, d.due
            FROM (SELECT u.line_id, u.billed, u.due_by_then - lag(u.due_by_then, 1, 0::numeric) OVER (ORDER BY u.line_id) AS due
                  FROM (SELECT l.line_id, b.billed, toll.minutes_due(sum(b.billed) OVER w, sum(l.charge) OVER w, sum(l.waived) OVER w) AS due_by_then
                        FROM public.billing_charges AS l
                        CROSS JOIN LATERAL (SELECT coalesce((l.quantities ->> 'minutes')::numeric, 0) AS billed) AS b
                        WHERE l.session_id = c.session_id AND l.component = 'tariff'
                        WINDOW w AS (ORDER BY l.line_id ROWS UNBOUNDED PRECEDING)) AS u) AS d
            WHERE d.line_id = c.line_id AND c.component = 'tariff'
              AND (SELECT s.charge_by FROM toll.rated_sessions AS s WHERE s.session_id = c.session_id) = 'prepaid_minutes'
            OFFSET 0) AS m ON true
        WHERE c.account_id = account_statement.account_id AND c.booked_at >= from_at AND c.booked_at < to_at
        UNION ALL
        SELECT 'money', t.created_at, NULL, t.transaction_id, NULL, NULL, t.transaction_type, NULL, NULL, NULL, NULL, NULL, NULL, NULL, t.amount,
               t.balance_after, t.currency, concat_ws(' ', t.reference_id, t.payment_method)
        FROM public.credit_transactions AS t
        WHERE t.user_id = account_statement.account_id AND t.created_at >= from_at AND t.created_at < to_at
        UNION ALL
        SELECT 'minutes', t.created_at, NULL, t.transaction_id, NULL, NULL, t.type, NULL, NULL, NULL, NULL, NULL, NULL, NULL, t.minutes_delta,
               t.balance_after, t.currency, concat_ws(' ', t.reference_id, t.payment_method)
        FROM public.wallet_transactions AS t
        WHERE t.user_id = account_statement.account_id AND t.created_at >= from_at AND t.created_at < to_at) AS q
    ORDER BY q.at, q.record, q.event_id, length(q.id), q.id;
END $$;
COMMENT ON FUNCTION public.account_statement(text, timestamptz, timestamptz) IS
    'An account''s lines that were booked, and bookings of its wallets that were made, from from_at up to to_at, in this order. Without costs: it is for the customer.'
    ' record line: charge, the part waived by a trial, and due (charge - waived), in `currency`; of calls charged by prepaid_minutes, currency is minutes, and these'
    ' three are minutes, to nine decimals: no money is due for them. NULL: the price is not known yet. record money, minutes: a booking in a wallet, amount and'
    ' balance_after in `currency`. All of an account''s due in one currency is what its wallet of it was debited, where it had one from the beginning. Errors: unknown'
    ' account; from_at after to_at, or NULL';
