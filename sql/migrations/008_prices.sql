-- What usage costs and who pays: accounts, plans, the price book, exchange rates. The rules are in sql/README.md.

-- Equality beside ranges in one exclusion constraint. A trusted extension: who owns the database may create it; the tables' owner, as whom migrations
-- run, perhaps not.
DO $$
DECLARE
    running text := current_setting('role');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'btree_gist') THEN
        PERFORM set_config('role', 'none', true);
        CREATE EXTENSION btree_gist WITH SCHEMA public;
        PERFORM set_config('role', running, true);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE insufficient_privilege USING MESSAGE = format('toll: %s may not create extension btree_gist: let the owner of the database run'
        ' CREATE EXTENSION btree_gist in it, and then migrate again', session_user);
END $$;

CREATE TABLE toll.rating_settings (
    only_row            boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    account_keys        text[] NOT NULL DEFAULT '{account_id,user_id,tenant_id,business_id}',
    business_keys       text[] NOT NULL DEFAULT '{business_id,tenant_id}',
    default_plan_id     text NOT NULL DEFAULT 'basic',
    default_currency    text NOT NULL DEFAULT 'USD' CHECK (default_currency ~ '^[A-Z]{3}$'),
    default_time_zone   text NOT NULL DEFAULT 'UTC' CHECK (timezone(default_time_zone, 'epoch'::timestamptz) IS NOT NULL),
    default_charge_by   text NOT NULL DEFAULT 'usage' CHECK (default_charge_by IN ('usage', 'minutes', 'prepaid_minutes', 'plan')),
    default_tariff_id   text NOT NULL DEFAULT '*',
    default_channel     text NOT NULL DEFAULT 'voice' CHECK (default_channel IN ('voice', 'text')),
    trial_days          integer NOT NULL DEFAULT 0 CHECK (trial_days >= 0),
    trial_allowance     numeric(20, 9) CHECK (trial_allowance >= 0 AND trial_allowance < 'NaN'),
    close_grace         interval NOT NULL DEFAULT '3 days' CHECK (close_grace >= interval '0'),
    changed_at          timestamptz NOT NULL DEFAULT now()
);
INSERT INTO toll.rating_settings DEFAULT VALUES;
COMMENT ON TABLE toll.rating_settings IS 'How rating works here: one row. What it says of accounts applies to those that are made afterwards';
COMMENT ON COLUMN toll.rating_settings.only_row IS 'There is one row';
COMMENT ON COLUMN toll.rating_settings.account_keys IS 'The metadata keys of a session that may name its account: the first present one does';
COMMENT ON COLUMN toll.rating_settings.business_keys IS 'The metadata keys that may name its business: the first present one does';
COMMENT ON COLUMN toll.rating_settings.default_plan_id IS 'The plan of a new account';
COMMENT ON COLUMN toll.rating_settings.default_currency IS 'The currency of a new account, and of the cost of usage without an account';
COMMENT ON COLUMN toll.rating_settings.default_time_zone IS 'The time zone of a new account, and of reports over several';
COMMENT ON COLUMN toll.rating_settings.default_charge_by IS 'How a new account is charged: usage, minutes, prepaid_minutes or plan';
COMMENT ON COLUMN toll.rating_settings.default_tariff_id IS 'The minute tariff of a new account: variant of its prices; *: those for any';
COMMENT ON COLUMN toll.rating_settings.default_channel IS 'voice or text: variant of the llm prices of a session whose metadata have no channel';
COMMENT ON COLUMN toll.rating_settings.trial_days IS 'How long a new account is on trial; 0: not at all';
COMMENT ON COLUMN toll.rating_settings.trial_allowance IS 'How much a trial waives, in the account''s currency; NULL: all until it ends';
COMMENT ON COLUMN toll.rating_settings.close_grace IS 'How long after a month''s end it may be closed';
COMMENT ON COLUMN toll.rating_settings.changed_at IS 'When this was last changed';

CREATE TABLE public.plans (
    plan_id    text PRIMARY KEY CHECK (plan_id <> '' AND length(plan_id) <= 256),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.plans IS 'Plans: what prices and quotas may be set for, and accounts belong to';
COMMENT ON COLUMN public.plans.plan_id IS 'The plan';
COMMENT ON COLUMN public.plans.name IS 'Its name for people';
COMMENT ON COLUMN public.plans.created_at IS 'When it was made';

CREATE TABLE public.usage_quotas (
    plan_id             text REFERENCES public.plans,
    event_type          text CHECK (event_type <> '' AND length(event_type) <= 256),
    included_quantity   numeric NOT NULL CHECK (included_quantity >= 0 AND included_quantity < 'Infinity'),
    quota_limit         numeric CHECK (quota_limit >= 0 AND quota_limit < 'Infinity'),
    overage_price_cents numeric NOT NULL CHECK (overage_price_cents >= 0 AND overage_price_cents < 'Infinity'),
    PRIMARY KEY (plan_id, event_type)
);
COMMENT ON TABLE public.usage_quotas IS 'What a plan includes each calendar month, and what more costs';
COMMENT ON COLUMN public.usage_quotas.plan_id IS 'The plan';
COMMENT ON COLUMN public.usage_quotas.event_type IS
    'The meter: api_call, voice_minute, ai_query, storage_mb, or any other that usage is reported by';
COMMENT ON COLUMN public.usage_quotas.included_quantity IS 'How much of it a month is included, in the meter''s unit';
COMMENT ON COLUMN public.usage_quotas.quota_limit IS 'Above it an alert is raised (toll.quota_alerts); nothing is refused. NULL: never';
COMMENT ON COLUMN public.usage_quotas.overage_price_cents IS
    'Price of one unit beyond, in cents of the account''s currency. Analytics show every unit at this price';
INSERT INTO public.plans (plan_id, name) VALUES ('basic', 'Basic');
INSERT INTO public.usage_quotas (plan_id, event_type, included_quantity, quota_limit, overage_price_cents) VALUES
    ('basic', 'api_call', 1000, NULL, 1), ('basic', 'voice_minute', 60, NULL, 2),
    ('basic', 'ai_query', 100, NULL, 5), ('basic', 'storage_mb', 1000, NULL, 0.1);
ALTER TABLE toll.rating_settings ADD FOREIGN KEY (default_plan_id) REFERENCES public.plans;

CREATE TABLE public.accounts (
    account_id       text PRIMARY KEY CHECK (account_id <> '' AND octet_length(account_id) <= 256),
    name             text,
    plan_id          text NOT NULL REFERENCES public.plans,
    currency         text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    time_zone        text NOT NULL CHECK (timezone(time_zone, 'epoch'::timestamptz) IS NOT NULL),
    charge_by        text NOT NULL CHECK (charge_by IN ('usage', 'minutes', 'prepaid_minutes', 'plan')),
    tariff_id        text NOT NULL,
    trial_ends_at    timestamptz,
    trial_allowance  numeric(20, 9) CHECK (trial_allowance >= 0 AND trial_allowance < 'NaN'),
    trial_used       numeric(20, 9) NOT NULL DEFAULT 0,
    markup_percent   numeric CHECK (markup_percent >= -100 AND markup_percent <= 1000000),
    closed_until     timestamptz,
    reported_meters  text[] NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE public.accounts IS
    'Who is charged. An account that usage names is made on first sight with the defaults of toll.rating_settings';
COMMENT ON COLUMN public.accounts.account_id IS 'The account: what sessions'' metadata or usage frames call it';
COMMENT ON COLUMN public.accounts.name IS 'Its name for people';
COMMENT ON COLUMN public.accounts.plan_id IS 'Its plan: decides prices and quotas';
COMMENT ON COLUMN public.accounts.currency IS 'ISO 4217 code: lines, charges and the wallet are in it. A cent is a hundredth of its unit';
COMMENT ON COLUMN public.accounts.time_zone IS 'In which its days and months are cut';
COMMENT ON COLUMN public.accounts.charge_by IS
    'The one scheme that charges: usage (each priced event), minutes (the minute tariff at the session''s end), prepaid_minutes (the same, from a'
    ' wallet of minutes), plan (what goes beyond the plan''s included quantities). Copied to each session when it starts';
COMMENT ON COLUMN public.accounts.tariff_id IS 'Its minute tariff: variant of the prices of component tariff';
COMMENT ON COLUMN public.accounts.trial_ends_at IS 'Usage before then is waived, as long as the allowance lasts; NULL: no trial';
COMMENT ON COLUMN public.accounts.trial_allowance IS 'How much the trial waives in all, in its currency; NULL: all of it';
COMMENT ON COLUMN public.accounts.trial_used IS 'How much of that is used up';
COMMENT ON COLUMN public.accounts.markup_percent IS 'Charged on top of cost where there is no price to charge; NULL: such usage is unrated';
COMMENT ON COLUMN public.accounts.closed_until IS 'Up to here its periods are closed: later lines of earlier usage are booked after it';
COMMENT ON COLUMN public.accounts.reported_meters IS
    'Meters that usage frames reported for it: of these, nothing is derived from calls any more (api_call, voice_minute)';
COMMENT ON COLUMN public.accounts.created_at IS 'When it was made';

CREATE TABLE public.pricing_config (
    price_id          bigserial PRIMARY KEY,
    scope_kind        text NOT NULL CHECK (scope_kind IN ('account', 'plan', 'default')),
    scope_id          text NOT NULL DEFAULT '*',
    component         text NOT NULL CHECK (component IN ('llm', 'tts', 'stt', 'telephony', 'meter', 'tariff')),
    provider          text NOT NULL DEFAULT '*',
    model             text NOT NULL DEFAULT '*',
    variant           text NOT NULL DEFAULT '*',
    dimension         text NOT NULL,
    tier_above        bigint NOT NULL DEFAULT 0 CHECK (tier_above >= 0),
    side              text NOT NULL CHECK (side IN ('cost', 'charge')),
    price             numeric NOT NULL,
    unit_quantity     numeric NOT NULL,
    currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    minimum_seconds   integer NOT NULL DEFAULT 0 CHECK (minimum_seconds BETWEEN 0 AND 86400),
    increment_seconds integer NOT NULL DEFAULT 0 CHECK (increment_seconds BETWEEN 0 AND 86400),
    valid             tstzrange NOT NULL,
    source            text,
    source_date       date,
    created_at        timestamptz NOT NULL DEFAULT now(),
    created_by        text NOT NULL DEFAULT session_user,
    withdrawn_at      timestamptz,
    withdrawn_by      text,
    withdrawn_reason  text,
    CONSTRAINT pricing_config_scope_check CHECK ((scope_kind = 'default') = (scope_id = '*')),
    CONSTRAINT pricing_config_names_check CHECK (
        provider <> '' AND model <> '' AND variant <> '' AND dimension <> '' AND scope_id <> ''
        AND octet_length(provider) <= 256 AND octet_length(model) <= 256 AND octet_length(variant) <= 256
        AND octet_length(dimension) <= 256 AND octet_length(scope_id) <= 256),
    CONSTRAINT pricing_config_price_check CHECK (price >= 0 AND price < 1e12 AND scale(price) <= 30),
    CONSTRAINT pricing_config_unit_check CHECK (unit_quantity > 0 AND unit_quantity <= 1e12 AND unit_quantity = trunc(unit_quantity)),
    CONSTRAINT pricing_config_tier_check CHECK (tier_above = 0 OR component = 'llm'),
    CONSTRAINT pricing_config_telephony_check CHECK (component = 'telephony' OR (minimum_seconds = 0 AND increment_seconds = 0)),
    CONSTRAINT pricing_config_dimension_check CHECK (CASE component
        WHEN 'llm' THEN dimension IN ('input', 'cached_input', 'cache_write', 'audio_input', 'cached_audio_input', 'output',
                                      'audio_output', 'request')
        WHEN 'tts' THEN dimension IN ('characters', 'audio_minutes', 'tokens')
        WHEN 'stt' THEN dimension IN ('minutes', 'seconds', 'tokens')
        WHEN 'telephony' THEN dimension IN ('telephony_inbound', 'telephony_outbound')
        WHEN 'tariff' THEN dimension = 'minutes' AND side = 'charge'
        ELSE true END),
    CONSTRAINT pricing_config_valid_check CHECK (NOT isempty(valid) AND NOT lower_inf(valid) AND lower_inc(valid) AND NOT upper_inc(valid)),
    CONSTRAINT pricing_config_withdrawn_check CHECK (withdrawn_at IS NOT NULL OR (withdrawn_by IS NULL AND withdrawn_reason IS NULL)),
    CONSTRAINT pricing_config_overlap EXCLUDE USING gist (
        scope_kind WITH =, scope_id WITH =, component WITH =, provider WITH =, model WITH =, variant WITH =, dimension WITH =,
        tier_above WITH =, side WITH =, valid WITH &&) WHERE (withdrawn_at IS NULL)
);
CREATE INDEX pricing_config_component_idx ON public.pricing_config (component, provider, model) WHERE withdrawn_at IS NULL;
CREATE INDEX pricing_config_account_idx ON public.pricing_config (scope_id, component) WHERE scope_kind = 'account' AND withdrawn_at IS NULL;
COMMENT ON INDEX public.pricing_config_account_idx IS 'Whether an account has prices of its own';
COMMENT ON TABLE public.pricing_config IS
    'The price book: one row is one price of one thing for a time. Rows are added by set_price() and taken back by withdraw_price(); nothing'
    ' else of a row ever changes but the end of an open one';
COMMENT ON COLUMN public.pricing_config.price_id IS 'Number of the price; lines name the prices they were made of';
COMMENT ON COLUMN public.pricing_config.scope_kind IS 'For whom: an account, a plan, or default: everybody. The nearest wins';
COMMENT ON COLUMN public.pricing_config.scope_id IS 'The account or plan; * for default';
COMMENT ON COLUMN public.pricing_config.component IS 'Of what: llm, tts, stt, telephony, meter (any other usage), tariff (a call''s minutes)';
COMMENT ON COLUMN public.pricing_config.provider IS 'Of which provider; *: any. An exact one wins';
COMMENT ON COLUMN public.pricing_config.model IS 'Of which model; *: any';
COMMENT ON COLUMN public.pricing_config.variant IS
    'Of which voice (tts), language (stt), channel voice or text (llm), or the tariff''s id (tariff); *: any';
COMMENT ON COLUMN public.pricing_config.dimension IS
    'What is counted. llm: input, cached_input, cache_write, audio_input, cached_audio_input, output, audio_output (tokens), request; tts:'
    ' characters, audio_minutes, tokens; stt: minutes, seconds, tokens; telephony: telephony_inbound, telephony_outbound (minutes); tariff:'
    ' minutes; meter: the meter''s name';
COMMENT ON COLUMN public.pricing_config.tier_above IS
    'For calls with more input tokens than this (llm): the whole call goes by its highest tier. 0: for any';
COMMENT ON COLUMN public.pricing_config.side IS 'cost: what the provider takes; charge: what the customer pays';
COMMENT ON COLUMN public.pricing_config.price IS 'Price of unit_quantity units, in `currency`';
COMMENT ON COLUMN public.pricing_config.unit_quantity IS 'So many units it is for, as the source gives it: 1, 1000, 1000000 ...';
COMMENT ON COLUMN public.pricing_config.currency IS 'ISO 4217 code';
COMMENT ON COLUMN public.pricing_config.minimum_seconds IS 'Telephony: a call counts at least so many seconds';
COMMENT ON COLUMN public.pricing_config.increment_seconds IS 'Telephony: it counts in steps of so many seconds, rounded up; 0: to the microsecond';
COMMENT ON COLUMN public.pricing_config.valid IS 'When it applies, by the usage''s own time: from the start, up to but not at the end';
COMMENT ON COLUMN public.pricing_config.source IS 'Where it is from';
COMMENT ON COLUMN public.pricing_config.source_date IS 'When it was read there';
COMMENT ON COLUMN public.pricing_config.created_at IS 'When it was added';
COMMENT ON COLUMN public.pricing_config.created_by IS 'By which database user';
COMMENT ON COLUMN public.pricing_config.withdrawn_at IS 'When it was taken back: it was never right. NULL: it stands';
COMMENT ON COLUMN public.pricing_config.withdrawn_by IS 'By which database user';
COMMENT ON COLUMN public.pricing_config.withdrawn_reason IS 'Why';

CREATE TABLE public.fx_rates (
    fx_rate_id    bigserial PRIMARY KEY,
    from_currency text NOT NULL CHECK (from_currency ~ '^[A-Z]{3}$'),
    to_currency   text NOT NULL CHECK (to_currency ~ '^[A-Z]{3}$'),
    rate          numeric NOT NULL CHECK (rate > 0 AND rate < 1e12 AND scale(rate) <= 18),
    valid         tstzrange NOT NULL,
    source        text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT fx_rates_two_check CHECK (from_currency <> to_currency),
    CONSTRAINT fx_rates_valid_check CHECK (NOT isempty(valid) AND NOT lower_inf(valid) AND lower_inc(valid) AND NOT upper_inc(valid)),
    CONSTRAINT fx_rates_overlap EXCLUDE USING gist (from_currency WITH =, to_currency WITH =, valid WITH &&)
);
COMMENT ON TABLE public.fx_rates IS
    'Exchange rates: one unit of from_currency is `rate` units of to_currency. Added by set_fx_rate(); the way back is a row of its own';
COMMENT ON COLUMN public.fx_rates.fx_rate_id IS 'Number of the rate';
COMMENT ON COLUMN public.fx_rates.from_currency IS 'ISO 4217 code';
COMMENT ON COLUMN public.fx_rates.to_currency IS 'ISO 4217 code';
COMMENT ON COLUMN public.fx_rates.rate IS 'Units of to_currency for one of from_currency';
COMMENT ON COLUMN public.fx_rates.valid IS 'When it applies, by the usage''s own time: from the start, up to but not at the end';
COMMENT ON COLUMN public.fx_rates.source IS 'Where it is from';
COMMENT ON COLUMN public.fx_rates.created_at IS 'When it was added';
