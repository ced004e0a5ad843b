-- Wallets: balances, their ledgers, holds, alerts, and which live sessions are short of credit.

CREATE TABLE public.customer_balance (
    user_id               text REFERENCES public.accounts (account_id),
    currency              text CHECK (currency = 'minutes' OR currency ~ '^[A-Z]{3}$'),
    balance               numeric(20, 9) NOT NULL DEFAULT 0 CHECK (balance < 'NaN'),
    balance_cents         bigint NOT NULL GENERATED ALWAYS AS (floor(balance * 100)::bigint) STORED,
    low_balance_threshold bigint NOT NULL DEFAULT 0 CHECK (low_balance_threshold >= 0),
    auto_reload_enabled   boolean NOT NULL DEFAULT false,
    is_low                boolean NOT NULL DEFAULT false,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, currency)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE public.customer_balance IS
    'Wallets of prepaid accounts: balance is the sum of the ledger (credit_transactions, or wallet_transactions for minutes), always. An account'
    ' without a row is postpaid: not debited, never cut off';
COMMENT ON COLUMN public.customer_balance.user_id IS 'The account';
COMMENT ON COLUMN public.customer_balance.currency IS 'The account''s currency, or minutes for a wallet of prepaid minutes';
COMMENT ON COLUMN public.customer_balance.balance IS 'The exact balance, in units of currency (or minutes); may be negative by what was in flight';
COMMENT ON COLUMN public.customer_balance.balance_cents IS 'The same in hundredths, rounded down';
COMMENT ON COLUMN public.customer_balance.low_balance_threshold IS 'In hundredths: at or below it credit is low';
COMMENT ON COLUMN public.customer_balance.auto_reload_enabled IS 'Crossing the threshold also notifies channel toll_auto_reload';
COMMENT ON COLUMN public.customer_balance.is_low IS 'The threshold was crossed downwards, and not upwards since';
COMMENT ON COLUMN public.customer_balance.created_at IS 'When the wallet was made';
COMMENT ON COLUMN public.customer_balance.updated_at IS 'When its balance last changed';

-- No foreign key to the wallet: it would be half of what a debit costs, and only functions that hold the wallet's lock write here.
CREATE TABLE public.credit_transactions (
    transaction_id   text PRIMARY KEY CHECK (transaction_id <> '' AND octet_length(transaction_id) <= 512),
    user_id          text NOT NULL,
    currency         text NOT NULL,
    amount           numeric(20, 9) NOT NULL CHECK (amount < 'NaN'),
    amount_cents     bigint NOT NULL,
    balance_after    numeric(20, 9) NOT NULL,
    transaction_type text NOT NULL CHECK (transaction_type IN ('purchase', 'deduction', 'refund', 'adjustment')),
    reference_id     text,
    payment_method   text,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX credit_transactions_user_id_idx ON public.credit_transactions (user_id, created_at);
COMMENT ON TABLE public.credit_transactions IS 'The ledger of wallets in money. Append-only: nobody can change or delete a row';
COMMENT ON COLUMN public.credit_transactions.transaction_id IS 'Unique id: the payer''s own, or toll:... where toll made it';
COMMENT ON COLUMN public.credit_transactions.user_id IS 'The account';
COMMENT ON COLUMN public.credit_transactions.currency IS 'The wallet''s currency';
COMMENT ON COLUMN public.credit_transactions.amount IS 'What the balance changed by: deductions are negative';
COMMENT ON COLUMN public.credit_transactions.amount_cents IS 'floor(balance after) - floor(balance before) in cents, so that cents add up as well';
COMMENT ON COLUMN public.credit_transactions.balance_after IS 'The balance with it';
COMMENT ON COLUMN public.credit_transactions.transaction_type IS 'purchase, deduction, refund or adjustment';
COMMENT ON COLUMN public.credit_transactions.reference_id IS 'Of a deduction, the session; else what the caller gave';
COMMENT ON COLUMN public.credit_transactions.payment_method IS 'How it was paid';
COMMENT ON COLUMN public.credit_transactions.created_at IS 'When it was booked';

CREATE TABLE public.wallet_transactions (
    transaction_id text PRIMARY KEY CHECK (transaction_id <> '' AND octet_length(transaction_id) <= 512),
    user_id        text NOT NULL,
    currency       text NOT NULL DEFAULT 'minutes' CHECK (currency = 'minutes'),
    minutes_delta  numeric(20, 9) NOT NULL CHECK (minutes_delta < 'NaN'),
    balance_after  numeric(20, 9) NOT NULL,
    type           text NOT NULL CHECK (type IN ('purchase', 'usage', 'refund', 'adjustment')),
    reference_id   text,
    payment_method text,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX wallet_transactions_user_id_idx ON public.wallet_transactions (user_id, created_at);
COMMENT ON TABLE public.wallet_transactions IS 'The ledger of wallets of prepaid minutes. Append-only: nobody can change or delete a row';
COMMENT ON COLUMN public.wallet_transactions.transaction_id IS 'Unique id: the payer''s own, or toll:... where toll made it';
COMMENT ON COLUMN public.wallet_transactions.user_id IS 'The account';
COMMENT ON COLUMN public.wallet_transactions.currency IS 'minutes';
COMMENT ON COLUMN public.wallet_transactions.minutes_delta IS 'What the balance changed by, in minutes: usage is negative';
COMMENT ON COLUMN public.wallet_transactions.balance_after IS 'The balance with it';
COMMENT ON COLUMN public.wallet_transactions.type IS 'purchase, usage, refund or adjustment';
COMMENT ON COLUMN public.wallet_transactions.reference_id IS 'Of usage, the session; else what the caller gave';
COMMENT ON COLUMN public.wallet_transactions.payment_method IS 'How it was paid';
COMMENT ON COLUMN public.wallet_transactions.created_at IS 'When it was booked';

CREATE TABLE public.credit_holds (
    hold_id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        text NOT NULL,
    currency       text NOT NULL,
    amount         numeric(20, 9) NOT NULL CHECK (amount > 0 AND amount < 'NaN'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    session_id     uuid,
    debited_before numeric(20, 9) NOT NULL DEFAULT 0,
    released_at    timestamptz,
    FOREIGN KEY (user_id, currency) REFERENCES public.customer_balance (user_id, currency)
);
CREATE INDEX credit_holds_open_idx ON public.credit_holds (user_id, currency) WHERE released_at IS NULL;
CREATE INDEX credit_holds_session_id_idx ON public.credit_holds (session_id) WHERE released_at IS NULL;
COMMENT ON TABLE public.credit_holds IS
    'What was set aside for calls to come (reserve()). What remains of a hold is max(0, amount - what its session was debited since)';
COMMENT ON COLUMN public.credit_holds.hold_id IS 'The hold: a session names it in metadata as hold_id';
COMMENT ON COLUMN public.credit_holds.user_id IS 'The account';
COMMENT ON COLUMN public.credit_holds.currency IS 'The wallet''s currency, or minutes';
COMMENT ON COLUMN public.credit_holds.amount IS 'What was set aside';
COMMENT ON COLUMN public.credit_holds.created_at IS 'When';
COMMENT ON COLUMN public.credit_holds.expires_at IS 'When it lapses by itself';
COMMENT ON COLUMN public.credit_holds.session_id IS 'The session that uses it';
COMMENT ON COLUMN public.credit_holds.debited_before IS 'What that session had been debited when it was linked';
COMMENT ON COLUMN public.credit_holds.released_at IS 'When it ended: with its session, or by release(); NULL: it stands, unless it has lapsed';

CREATE TABLE public.low_balance_alerts (
    alert_id    bigserial PRIMARY KEY,
    user_id     text NOT NULL,
    currency    text NOT NULL,
    balance     numeric(20, 9) NOT NULL,
    threshold   bigint NOT NULL,
    auto_reload boolean NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX low_balance_alerts_user_id_idx ON public.low_balance_alerts (user_id, created_at);
COMMENT ON TABLE public.low_balance_alerts IS
    'A row for each time a balance crossed its threshold downwards; NOTIFY toll_low_balance tells listeners, this table is the truth';
COMMENT ON COLUMN public.low_balance_alerts.alert_id IS 'Number of the alert';
COMMENT ON COLUMN public.low_balance_alerts.user_id IS 'The account';
COMMENT ON COLUMN public.low_balance_alerts.currency IS 'The wallet''s currency, or minutes';
COMMENT ON COLUMN public.low_balance_alerts.balance IS 'The balance after the debit that crossed it';
COMMENT ON COLUMN public.low_balance_alerts.threshold IS 'The threshold, in hundredths';
COMMENT ON COLUMN public.low_balance_alerts.auto_reload IS 'Whether the account reloads by itself';
COMMENT ON COLUMN public.low_balance_alerts.created_at IS 'When';

CREATE TABLE toll.session_credit (
    session_id uuid PRIMARY KEY,
    account_id text NOT NULL,
    state      text NOT NULL CHECK (state IN ('low', 'exhausted')),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX session_credit_account_id_idx ON toll.session_credit (account_id);
COMMENT ON TABLE toll.session_credit IS
    'Live sessions whose account is short of credit; one that is not listed is ok. NOTIFY toll_credit says that it changed; tolld carries it to the workers';
COMMENT ON COLUMN toll.session_credit.session_id IS 'The session';
COMMENT ON COLUMN toll.session_credit.account_id IS 'Its account';
COMMENT ON COLUMN toll.session_credit.state IS 'exhausted: available credit is 0 or less; low: at or below the threshold';
COMMENT ON COLUMN toll.session_credit.changed_at IS 'Since when';

CREATE TABLE toll.wallet_credit (
    user_id  text,
    currency text,
    state    text NOT NULL CHECK (state IN ('ok', 'low', 'exhausted')),
    check_at timestamptz,
    PRIMARY KEY (user_id, currency)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX wallet_credit_check_at_idx ON toll.wallet_credit (check_at) WHERE check_at IS NOT NULL;
COMMENT ON TABLE toll.wallet_credit IS
    'What toll.refresh_credit() last found of each wallet, and when time alone may change that: toll.check_credit() looks then';
COMMENT ON COLUMN toll.wallet_credit.user_id IS 'The account';
COMMENT ON COLUMN toll.wallet_credit.currency IS 'The wallet''s currency, or minutes';
COMMENT ON COLUMN toll.wallet_credit.state IS 'exhausted: available credit is 0 or less; low: at or below the threshold; else ok';
COMMENT ON COLUMN toll.wallet_credit.check_at IS
    'Not before then does a started minute or a lapsing hold change the state; NULL: only a debit, a top-up or a session does';

-- What availability is asked for often: live calls that are charged by the minute, and what a minute costs.
CREATE INDEX rated_sessions_minutes_idx ON toll.rated_sessions (account_id)
    WHERE ended_at IS NULL AND charge_by IN ('minutes', 'prepaid_minutes');
CREATE INDEX pricing_config_tariff_idx ON public.pricing_config (scope_kind, scope_id) WHERE component = 'tariff' AND withdrawn_at IS NULL;

CREATE TYPE toll.session_debit AS (
    account_id text,
    session_id uuid,
    currency   text,
    amount     numeric
);
COMMENT ON TYPE toll.session_debit IS 'For toll.debit(): what a wallet is to be debited for a session';
COMMENT ON COLUMN toll.session_debit.account_id IS 'The account';
COMMENT ON COLUMN toll.session_debit.session_id IS 'The session; NULL: usage outside any';
COMMENT ON COLUMN toll.session_debit.currency IS 'Which wallet of the account: its currency, or minutes';
COMMENT ON COLUMN toll.session_debit.amount IS 'How much, in units of that, up to nine decimals: positive debits, negative gives back';

CREATE TABLE toll.quota_alerts (
    alert_id     bigserial PRIMARY KEY,
    account_id   text NOT NULL,
    period_start date NOT NULL,
    event_type   text NOT NULL,
    quantity     numeric NOT NULL,
    quota_limit  numeric NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE toll.quota_alerts IS 'A row for each month and meter in which an account went above its plan''s quota_limit; NOTIFY toll_quota tells listeners';
COMMENT ON COLUMN toll.quota_alerts.alert_id IS 'Number of the alert';
COMMENT ON COLUMN toll.quota_alerts.account_id IS 'The account';
COMMENT ON COLUMN toll.quota_alerts.period_start IS 'First day of the month, in the account''s time zone';
COMMENT ON COLUMN toll.quota_alerts.event_type IS 'The meter';
COMMENT ON COLUMN toll.quota_alerts.quantity IS 'What was used when the limit was crossed';
COMMENT ON COLUMN toll.quota_alerts.quota_limit IS 'The limit';
COMMENT ON COLUMN toll.quota_alerts.created_at IS 'When';

-- Ledgers and lines are append-only for everybody, also where triggers are silenced for replication.
CREATE FUNCTION toll.refuse_change()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'toll: % is append-only: % is refused. Corrections are further rows (adjust_credits, refund_credits, toll.rerate)',
        TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
REVOKE ALL ON FUNCTION toll.refuse_change() FROM PUBLIC;
COMMENT ON FUNCTION toll.refuse_change() IS 'Trigger: refuses to change rows of ledgers and lines';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON public.credit_transactions FOR EACH ROW EXECUTE FUNCTION toll.refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON public.credit_transactions FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON public.wallet_transactions FOR EACH ROW EXECUTE FUNCTION toll.refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON public.wallet_transactions FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON public.billing_charges FOR EACH ROW EXECUTE FUNCTION toll.refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON public.billing_charges FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_change();
ALTER TABLE public.credit_transactions ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_truncate;
ALTER TABLE public.wallet_transactions ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_truncate;
ALTER TABLE public.billing_charges ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_truncate;

-- Rows of ledgers and balances are written by the functions of sql/functions/wallet_*.sql only. These run as the tables' owner, whom nobody
-- else is by chance: not the owner of the database, nor a superuser. In replica mode it is silent: replicated rows pass.
CREATE FUNCTION toll.refuse_stranger()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_user <> (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = TG_RELID) THEN
        RAISE EXCEPTION 'toll: % is written by its functions only (add_credits, adjust_credits, toll.debit ...): % by % is refused',
            TG_TABLE_NAME, TG_OP, current_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION toll.refuse_stranger() FROM PUBLIC;
COMMENT ON FUNCTION toll.refuse_stranger() IS 'Trigger: refuses rows that do not come from functions of the table''s owner';
CREATE TRIGGER functions_only BEFORE INSERT ON public.credit_transactions FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_stranger();
CREATE TRIGGER functions_only BEFORE INSERT ON public.wallet_transactions FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_stranger();
CREATE TRIGGER functions_only BEFORE INSERT OR UPDATE OR DELETE ON public.customer_balance
    FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_stranger();
CREATE TRIGGER functions_only_truncate BEFORE TRUNCATE ON public.customer_balance
    FOR EACH STATEMENT EXECUTE FUNCTION toll.refuse_stranger();
