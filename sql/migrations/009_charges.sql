-- What rating writes: lines, what has no price, what it knows of sessions, roll-ups, and how far it has come.

-- Where a batch's events are, by their numbers, which its connection took in ascending order; NULL in batches from before, which are found by batch_id.
ALTER TABLE toll.batches ADD COLUMN first_event_id bigint, ADD COLUMN last_event_id bigint;
COMMENT ON COLUMN toll.batches.first_event_id IS 'The numbers (id) of its events are from here on; NULL: none, or not known';
COMMENT ON COLUMN toll.batches.last_event_id IS 'The number of its last event; NULL: none, or not known';

CREATE SEQUENCE toll.rated_batch_seq;
COMMENT ON SEQUENCE toll.rated_batch_seq IS 'Numbers of rated batches: transactions of rating';

CREATE TABLE toll.rating_progress (
    journal_id uuid,
    writer     integer,
    lsn        bigint NOT NULL,
    events     bigint NOT NULL DEFAULT 0,
    rated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (journal_id, writer)
) WITH (fillfactor = 50);
COMMENT ON TABLE toll.rating_progress IS 'Rating''s watermark of each journal and writer: what was stored below lsn is rated';
COMMENT ON COLUMN toll.rating_progress.journal_id IS 'The journal';
COMMENT ON COLUMN toll.rating_progress.writer IS 'The writer';
COMMENT ON COLUMN toll.rating_progress.lsn IS 'Where the last rated batch ended';
COMMENT ON COLUMN toll.rating_progress.events IS 'How many events were rated so far';
COMMENT ON COLUMN toll.rating_progress.rated_at IS 'When it last moved';

CREATE TABLE toll.session_queue (
    journal_id uuid NOT NULL,
    writer     integer NOT NULL,
    session_id uuid NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE toll.session_queue IS
    'Sessions that began, ended or changed since rating last looked. Written in the batch that changed them, emptied by toll.rate_next()';
COMMENT ON COLUMN toll.session_queue.journal_id IS 'The journal that stored the change';
COMMENT ON COLUMN toll.session_queue.writer IS 'The writer';
COMMENT ON COLUMN toll.session_queue.session_id IS 'The session; more than once, perhaps';

CREATE TABLE toll.rated_sessions (
    session_id      uuid PRIMARY KEY,
    account_id      text REFERENCES public.accounts,
    charge_by       text,
    plan_id         text,
    tariff_id       text,
    currency        text,
    channel         text NOT NULL,
    business_id     text,
    enterprise_id   text,
    workflow_name   text,
    call_id         text,
    hold_id         uuid,
    started_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    duration_ms     bigint,
    voice           boolean NOT NULL DEFAULT false,
    billed_minutes  bigint,
    billed_amount   numeric(20, 9),
    tariff_snapshot jsonb,
    voice_minutes   numeric,
    debited         numeric(20, 9) NOT NULL DEFAULT 0,
    resolved_at     timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX rated_sessions_live_idx ON toll.rated_sessions (account_id) WHERE ended_at IS NULL;
CREATE INDEX rated_sessions_ended_at_idx ON toll.rated_sessions (ended_at) WHERE billed_minutes IS NOT NULL;
CREATE INDEX rated_sessions_workflow_idx ON toll.rated_sessions (enterprise_id, workflow_name) WHERE enterprise_id IS NOT NULL;
CREATE INDEX rated_sessions_call_id_idx ON toll.rated_sessions (call_id) WHERE call_id IS NOT NULL;
CREATE INDEX rated_sessions_unresolved_idx ON toll.rated_sessions (started_at) WHERE account_id IS NULL;
COMMENT ON TABLE toll.rated_sessions IS 'What rating knows of a session, beside public.billing_sessions: who pays, by which scheme, and what it was billed';
COMMENT ON COLUMN toll.rated_sessions.session_id IS 'The session';
COMMENT ON COLUMN toll.rated_sessions.account_id IS 'Its account, fixed when its metadata first named one; NULL: they have not yet';
COMMENT ON COLUMN toll.rated_sessions.charge_by IS 'The account''s scheme when the session was first seen with its account';
COMMENT ON COLUMN toll.rated_sessions.plan_id IS 'The account''s plan then';
COMMENT ON COLUMN toll.rated_sessions.tariff_id IS 'The account''s minute tariff then';
COMMENT ON COLUMN toll.rated_sessions.currency IS 'The account''s currency';
COMMENT ON COLUMN toll.rated_sessions.channel IS 'voice or text: metadata''s channel, or the default';
COMMENT ON COLUMN toll.rated_sessions.business_id IS 'The business that metadata name (business_id or tenant_id)';
COMMENT ON COLUMN toll.rated_sessions.enterprise_id IS 'Metadata''s enterprise_id';
COMMENT ON COLUMN toll.rated_sessions.workflow_name IS 'Metadata''s workflow_name';
COMMENT ON COLUMN toll.rated_sessions.call_id IS 'Metadata''s call_id';
COMMENT ON COLUMN toll.rated_sessions.hold_id IS 'The hold that metadata name (hold_id) and that is this account''s';
COMMENT ON COLUMN toll.rated_sessions.started_at IS 'When it began';
COMMENT ON COLUMN toll.rated_sessions.ended_at IS 'When it ended, as it is billed; NULL: it is live';
COMMENT ON COLUMN toll.rated_sessions.duration_ms IS 'Its length in whole milliseconds, as it is billed';
COMMENT ON COLUMN toll.rated_sessions.voice IS 'It has an stt, tts or telephony event';
COMMENT ON COLUMN toll.rated_sessions.billed_minutes IS 'Minutes billed by the tariff: max(1, (ms + 59999) / 60000); NULL: no tariff applies';
COMMENT ON COLUMN toll.rated_sessions.billed_amount IS 'What these cost, in the account''s currency; NULL: the tariff has no price';
COMMENT ON COLUMN toll.rated_sessions.tariff_snapshot IS 'The tariff by which it was billed';
COMMENT ON COLUMN toll.rated_sessions.voice_minutes IS 'Voice minutes counted for quotas and analytics: duration / 60, unrounded';
COMMENT ON COLUMN toll.rated_sessions.debited IS 'What the wallet was debited for it, in the wallet''s unit';
COMMENT ON COLUMN toll.rated_sessions.resolved_at IS 'When its account was found';

CREATE TABLE public.billing_charges (
    line_id          bigserial PRIMARY KEY,
    event_id         bigint,
    occurred_at      timestamptz NOT NULL,
    session_id       uuid,
    account_id       text,
    component        text NOT NULL,
    provider         text,
    model            text,
    quantities       jsonb NOT NULL,
    cost_original    numeric(20, 9),
    cost_currency    text,
    cost             numeric(20, 9),
    charge           numeric(20, 9),
    waived           numeric(20, 9) NOT NULL DEFAULT 0,
    currency         text NOT NULL,
    cost_price_ids   bigint[],
    charge_price_ids bigint[],
    kind             text NOT NULL CHECK (kind IN ('usage', 'adjustment', 'tariff', 'overage')),
    reason           text,
    booked_at        timestamptz NOT NULL,
    batch            bigint NOT NULL
);
CREATE INDEX billing_charges_session_id_idx ON public.billing_charges (session_id);
CREATE INDEX billing_charges_event_id_idx ON public.billing_charges USING brin (event_id) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX billing_charges_occurred_at_idx ON public.billing_charges USING brin (occurred_at) WITH (autosummarize = on);
CREATE INDEX billing_charges_booked_at_idx ON public.billing_charges USING brin (booked_at) WITH (autosummarize = on);
COMMENT ON TABLE public.billing_charges IS
    'Lines: what each event cost and what is charged for it. Append-only: corrections are further lines. A figure is a sum of lines';
COMMENT ON COLUMN public.billing_charges.line_id IS 'Number of the line';
COMMENT ON COLUMN public.billing_charges.event_id IS 'The event (billing_events.id); NULL: of a whole session (tariff, voice minutes)';
COMMENT ON COLUMN public.billing_charges.occurred_at IS 'When the usage occurred; of a session''s line, its end';
COMMENT ON COLUMN public.billing_charges.session_id IS 'The session; NULL: usage outside any';
COMMENT ON COLUMN public.billing_charges.account_id IS 'Who is charged; NULL: not known yet, see unresolved_sessions';
COMMENT ON COLUMN public.billing_charges.component IS 'llm, tts, stt, telephony, meter or tariff';
COMMENT ON COLUMN public.billing_charges.provider IS 'The provider';
COMMENT ON COLUMN public.billing_charges.model IS 'The model; of a meter, its name';
COMMENT ON COLUMN public.billing_charges.quantities IS
    'What was counted, as it was rated. Disjoint token counts by dimension (input, cached_input, cache_write, audio_input, cached_audio_input,'
    ' output, audio_output), characters, audio_ms, tokens, quantity (meter), billed_seconds (telephony), minutes (tariff)';
COMMENT ON COLUMN public.billing_charges.cost_original IS 'The provider''s cost in the currency of its price; NULL: this line says nothing of cost';
COMMENT ON COLUMN public.billing_charges.cost_currency IS 'That currency';
COMMENT ON COLUMN public.billing_charges.cost IS 'The cost in `currency`, rounded once, half to even; NULL: this line says nothing of cost, or there is no price or rate';
COMMENT ON COLUMN public.billing_charges.charge IS 'What the customer is charged in `currency`, rounded once, half to even; NULL: this line says nothing of it, or there is no price';
COMMENT ON COLUMN public.billing_charges.waived IS 'The part of charge that a trial waives: charge - waived is due';
COMMENT ON COLUMN public.billing_charges.currency IS 'The account''s currency';
COMMENT ON COLUMN public.billing_charges.cost_price_ids IS 'The prices (pricing_config.price_id) that cost was made of';
COMMENT ON COLUMN public.billing_charges.charge_price_ids IS 'The prices that charge was made of; empty where it is cost and a markup';
COMMENT ON COLUMN public.billing_charges.kind IS
    'usage: an event; tariff: a session''s minutes; overage: beyond a plan''s quota; adjustment: the difference that a correction makes';
COMMENT ON COLUMN public.billing_charges.reason IS
    'Why charge is 0 (minutes, prepaid_minutes, plan: another scheme charges), or what was corrected; NULL: an ordinary charge';
COMMENT ON COLUMN public.billing_charges.booked_at IS 'When it counts in a statement: occurred_at, or now where that period was closed';
COMMENT ON COLUMN public.billing_charges.batch IS 'The rated batch: the transaction of rating that wrote it';

CREATE TABLE toll.unrated (
    event_id    bigint,
    side        text CHECK (side IN ('cost', 'charge')),
    occurred_at timestamptz NOT NULL,
    session_id  uuid,
    account_id  text,
    component   text NOT NULL,
    provider    text,
    model       text,
    variant     text,
    missing     text NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, side)
);
COMMENT ON TABLE toll.unrated IS 'Sides of events that have no amount: see the view unrated_events. toll.rate_unrated() tries them again';
COMMENT ON COLUMN toll.unrated.event_id IS 'The event (billing_events.id)';
COMMENT ON COLUMN toll.unrated.side IS 'cost or charge';
COMMENT ON COLUMN toll.unrated.occurred_at IS 'When it occurred';
COMMENT ON COLUMN toll.unrated.session_id IS 'Its session';
COMMENT ON COLUMN toll.unrated.account_id IS 'Its account, if that is known';
COMMENT ON COLUMN toll.unrated.component IS 'llm, tts, stt, telephony or meter';
COMMENT ON COLUMN toll.unrated.provider IS 'The provider';
COMMENT ON COLUMN toll.unrated.model IS 'The model, or the meter';
COMMENT ON COLUMN toll.unrated.variant IS 'Voice, language or channel';
COMMENT ON COLUMN toll.unrated.missing IS 'What is missing: a price, a rate, a quantity, an account';
COMMENT ON COLUMN toll.unrated.since IS 'When rating first came to it';

CREATE TABLE toll.usage_rollup (
    account_id          text,
    quarter             timestamptz,
    business_id         text,
    component           text,
    provider            text,
    model               text,
    currency            text,
    events              bigint NOT NULL,
    sessions            bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    characters          bigint NOT NULL,
    audio_us            bigint NOT NULL,
    quantity            numeric NOT NULL,
    cost                numeric NOT NULL,
    charge              numeric NOT NULL,
    waived              numeric NOT NULL,
    unrated_cost        bigint NOT NULL,
    unrated_charge      bigint NOT NULL,
    PRIMARY KEY (account_id, quarter, business_id, component, provider, model, currency)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX usage_rollup_business_idx ON toll.usage_rollup (business_id, quarter);
CREATE INDEX usage_rollup_quarter_idx ON toll.usage_rollup (quarter, component);
COMMENT ON TABLE toll.usage_rollup IS
    'Sums of lines per account, business and quarter of an hour, from which days of any time zone can be cut. Kept in the transaction that writes the lines';
COMMENT ON COLUMN toll.usage_rollup.account_id IS 'The account; empty: not known';
COMMENT ON COLUMN toll.usage_rollup.quarter IS 'Start of the quarter of an hour (UTC) in which the usage occurred';
COMMENT ON COLUMN toll.usage_rollup.business_id IS 'The business; empty: none named. Of usage without a session: its account';
COMMENT ON COLUMN toll.usage_rollup.component IS 'llm, tts, stt, telephony, meter, tariff (billed minutes of sessions, at their end), session (sessions at their end)';
COMMENT ON COLUMN toll.usage_rollup.provider IS 'The provider; empty: none named';
COMMENT ON COLUMN toll.usage_rollup.model IS 'The model, or the meter; empty: none named';
COMMENT ON COLUMN toll.usage_rollup.currency IS 'Of cost, charge and waived: the account''s';
COMMENT ON COLUMN toll.usage_rollup.events IS 'Number of events';
COMMENT ON COLUMN toll.usage_rollup.sessions IS 'Number of sessions that ended (component session) or were billed (component tariff)';
COMMENT ON COLUMN toll.usage_rollup.input_tokens IS 'Input tokens, gross';
COMMENT ON COLUMN toll.usage_rollup.cached_input_tokens IS 'Of these, those from the provider''s cache';
COMMENT ON COLUMN toll.usage_rollup.output_tokens IS 'Output tokens, gross';
COMMENT ON COLUMN toll.usage_rollup.characters IS 'Characters synthesised';
COMMENT ON COLUMN toll.usage_rollup.audio_us IS 'Microseconds of audio';
COMMENT ON COLUMN toll.usage_rollup.quantity IS
    'In the meter''s unit (meter, telephony: minutes); billed minutes (tariff); voice minutes, unrounded (session)';
COMMENT ON COLUMN toll.usage_rollup.cost IS 'Sum of the lines'' cost';
COMMENT ON COLUMN toll.usage_rollup.charge IS 'Sum of the lines'' charge';
COMMENT ON COLUMN toll.usage_rollup.waived IS 'Sum of what of that was waived';
COMMENT ON COLUMN toll.usage_rollup.unrated_cost IS 'Events whose cost is not known: cost is that of the others';
COMMENT ON COLUMN toll.usage_rollup.unrated_charge IS 'Events whose charge is not known: charge is that of the others';

CREATE TABLE toll.latency_rollup (
    quarter   timestamptz,
    component text,
    provider  text,
    model     text,
    metric    text CHECK (metric IN ('ttfb', 'duration')),
    bucket    smallint,
    events    bigint NOT NULL,
    PRIMARY KEY (quarter, component, provider, model, metric, bucket)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE toll.latency_rollup IS
    'How long providers took: a histogram with buckets a tenth apart (toll.latency_bucket), so that a percentile is off by 5 % at most';
COMMENT ON COLUMN toll.latency_rollup.quarter IS 'Start of the quarter of an hour (UTC)';
COMMENT ON COLUMN toll.latency_rollup.component IS 'llm, tts, stt or meter';
COMMENT ON COLUMN toll.latency_rollup.provider IS 'The provider';
COMMENT ON COLUMN toll.latency_rollup.model IS 'The model';
COMMENT ON COLUMN toll.latency_rollup.metric IS 'ttfb: until the first byte; duration: until the last';
COMMENT ON COLUMN toll.latency_rollup.bucket IS 'Number of the bucket: see toll.latency_bucket()';
COMMENT ON COLUMN toll.latency_rollup.events IS 'Events in it';

CREATE TABLE toll.plan_usage (
    account_id   text REFERENCES public.accounts,
    period_start date,
    event_type   text,
    quantity     numeric NOT NULL,
    alerted_at   timestamptz,
    PRIMARY KEY (account_id, period_start, event_type)
) WITH (fillfactor = 70);
COMMENT ON TABLE toll.plan_usage IS 'How much of its quotas an account has used in a calendar month of its time zone; kept for accounts charged by plan';
COMMENT ON COLUMN toll.plan_usage.account_id IS 'The account';
COMMENT ON COLUMN toll.plan_usage.period_start IS 'First day of the month';
COMMENT ON COLUMN toll.plan_usage.event_type IS 'The meter, as in usage_quotas';
COMMENT ON COLUMN toll.plan_usage.quantity IS 'Used so far, included or not';
COMMENT ON COLUMN toll.plan_usage.alerted_at IS 'When quota_limit was first exceeded';

CREATE TABLE toll.closed_periods (
    account_id text REFERENCES public.accounts,
    period     date,
    closed_at  timestamptz NOT NULL DEFAULT now(),
    closed_by  text NOT NULL DEFAULT session_user,
    PRIMARY KEY (account_id, period)
);
COMMENT ON TABLE toll.closed_periods IS 'Months that are closed: nothing more is booked in them. See toll.close_period()';
COMMENT ON COLUMN toll.closed_periods.account_id IS 'The account';
COMMENT ON COLUMN toll.closed_periods.period IS 'First day of the month, in the account''s time zone';
COMMENT ON COLUMN toll.closed_periods.closed_at IS 'When';
COMMENT ON COLUMN toll.closed_periods.closed_by IS 'By which database user';

-- What rating hands from function to function: sql/functions/rating_*.sql.
CREATE TYPE toll.rating_input AS (
    event_id            bigint,
    occurred_at         timestamptz,
    session_id          uuid,
    account_id          text,
    business_id         text,
    charge_by           text,
    closed_until        timestamptz,
    component           text,
    provider            text,
    model               text,
    variant             text,
    meter               text,
    scope_account       text,
    scope_plan          text,
    currency            text,
    markup_percent      numeric,
    uses                integer,
    text_input          integer,
    cached_input        integer,
    cache_write         integer,
    audio_input         integer,
    cached_audio        integer,
    text_output         integer,
    audio_output        integer,
    input_tokens        integer,
    cached_input_tokens integer,
    output_tokens       integer,
    characters          integer,
    audio_us            bigint,
    quantity            numeric
);
COMMENT ON TYPE toll.rating_input IS
    'An event with what decides its prices (toll.rating_inputs makes it, toll.price_events takes it). provider, model, variant, meter are empty'
    ' where not given; scope_account: the account, if it has prices of its own of this component, else empty; charge_by NULL: nobody is charged yet; llm:'
    ' tokens text_input ... audio_output are disjoint and uses has bit n - 1 where the n-th of them is not 0; else uses says what is known:'
    ' 1 characters or quantity, 2 audio, 4 tokens';

CREATE TYPE toll.price_card AS (
    component           text,
    provider            text,
    model               text,
    variant             text,
    meter               text,
    scope_account       text,
    scope_plan          text,
    currency            text,
    markup_percent      numeric,
    charged             boolean,
    uses                integer,
    from_at             timestamptz,
    until_at            timestamptz,
    above               bigint,
    up_to               bigint,
    cost_weights        numeric[],
    cost_divisor        numeric,
    cost_rate           numeric,
    cost_dimension      text,
    cost_minimum        integer,
    cost_increment      integer,
    cost_currency       text,
    cost_price_ids      bigint[],
    cost_missing        text,
    charge_weights      numeric[],
    charge_divisor      numeric,
    charge_rate         numeric,
    charge_dimension    text,
    charge_minimum      integer,
    charge_increment    integer,
    charge_price_ids    bigint[],
    charge_missing      text
);
COMMENT ON TYPE toll.price_card IS
    'What events of one kind cost and are charged, in a span of time and a tier: the sum of quantity * weight, times rate, over divisor. See toll.price_cards';

CREATE TYPE toll.rated_line AS (
    place               bigint,
    event_id            bigint,
    occurred_at         timestamptz,
    session_id          uuid,
    account_id          text,
    business_id         text,
    component           text,
    provider            text,
    model               text,
    variant             text,
    quantities          jsonb,
    cost_original       numeric,
    cost_currency       text,
    cost                numeric,
    charge              numeric,
    waived              numeric,
    currency            text,
    cost_price_ids      bigint[],
    charge_price_ids    bigint[],
    kind                text,
    reason              text,
    closed_until        timestamptz,
    scope_plan          text,
    minutes             numeric,
    cost_missing        text,
    charge_missing      text,
    events              integer,
    sessions            integer,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    characters          bigint,
    audio_us            bigint,
    quantity            numeric,
    unrated_cost        integer,
    unrated_charge      integer
);
COMMENT ON TYPE toll.rated_line IS
    'A line before it is written (toll.write_lines): the columns of billing_charges; place: its place in the order in which lines are rated; scope_plan: the plan it goes by; minutes: what it takes from a wallet of'
    ' minutes, where that pays; what is missing where an amount is NULL; and what it adds to the roll-up. kind NULL: it only adds to the roll-up';
