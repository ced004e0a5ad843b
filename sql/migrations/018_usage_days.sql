-- Sums of the roll-ups' older quarters of an hour, so that reports over long times need not read them all. See sql/functions/reports_sums.sql.

CREATE TABLE toll.usage_summed (
    until timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE UNIQUE INDEX usage_summed_one_row ON toll.usage_summed ((true));
INSERT INTO toll.usage_summed DEFAULT VALUES;
COMMENT ON TABLE toll.usage_summed IS 'How far toll.usage_days, toll.tariff_quarters and toll.latency_days have come: one row';
COMMENT ON COLUMN toll.usage_summed.until IS
    'Quarters of toll.usage_rollup and toll.latency_rollup before it are in them, with all that comes later for them; those from it on are not';

CREATE TABLE toll.usage_days (
    business_id text,
    day         date,
    account_id  text,
    meter       text,
    derived     boolean,
    events      bigint NOT NULL,
    quantity    numeric NOT NULL,
    PRIMARY KEY (business_id, day, account_id, meter, derived)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE toll.usage_days IS 'Sums of toll.usage_rollup per business, local day and meter, of quarters before toll.usage_summed.until';
COMMENT ON COLUMN toll.usage_days.business_id IS 'The business; of usage that names none, the account';
COMMENT ON COLUMN toll.usage_days.day IS 'The day, in the time zone that toll.business_zones has for the business';
COMMENT ON COLUMN toll.usage_days.account_id IS 'The account; empty: not known';
COMMENT ON COLUMN toll.usage_days.meter IS 'The meter, as in usage_quotas';
COMMENT ON COLUMN toll.usage_days.derived IS 'True: counted from calls; false: reported by usage frames. See toll.meter_months';
COMMENT ON COLUMN toll.usage_days.events IS 'Events, or sessions (voice_minute, derived)';
COMMENT ON COLUMN toll.usage_days.quantity IS 'How much, in the meter''s unit';

CREATE TABLE toll.business_zones (
    business_id text PRIMARY KEY,
    time_zone   text NOT NULL
);
COMMENT ON TABLE toll.business_zones IS
    'In which time zone the days of a business in toll.usage_days are cut. Where it is another by now, they are cut anew before long, and not read until then';
COMMENT ON COLUMN toll.business_zones.business_id IS 'The business';
COMMENT ON COLUMN toll.business_zones.time_zone IS 'The time zone: that of the account of that id, else of toll.rating_settings';

CREATE TABLE toll.tariff_quarters (
    quarter        timestamptz,
    currency       text,
    sessions       bigint NOT NULL,
    quantity       numeric NOT NULL,
    charge         numeric NOT NULL,
    waived         numeric NOT NULL,
    unrated_charge bigint NOT NULL,
    PRIMARY KEY (quarter, currency)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE toll.tariff_quarters IS
    'Sums of toll.usage_rollup''s minute tariffs over all accounts, of quarters before toll.usage_summed.until. The columns are those of toll.usage_rollup';
COMMENT ON COLUMN toll.tariff_quarters.quarter IS 'Start of the quarter of an hour in which sessions ended (UTC)';
COMMENT ON COLUMN toll.tariff_quarters.currency IS 'Currency of charge and waived';
COMMENT ON COLUMN toll.tariff_quarters.sessions IS 'Ended sessions';
COMMENT ON COLUMN toll.tariff_quarters.quantity IS 'Billed minutes';
COMMENT ON COLUMN toll.tariff_quarters.charge IS 'What they are charged, without those that have no price';
COMMENT ON COLUMN toll.tariff_quarters.waived IS 'Of that, what trials waive';
COMMENT ON COLUMN toll.tariff_quarters.unrated_charge IS 'Sessions whose tariff has no price';

CREATE TABLE toll.latency_days (
    day       date,
    component text,
    provider  text,
    model     text,
    metric    text,
    bucket    smallint,
    events    bigint NOT NULL,
    PRIMARY KEY (day, component, provider, model, metric, bucket)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE toll.latency_days IS
    'Sums of toll.latency_rollup per day of UTC, of quarters before toll.usage_summed.until. The columns are those of toll.latency_rollup';
COMMENT ON COLUMN toll.latency_days.day IS 'The day, of UTC';
COMMENT ON COLUMN toll.latency_days.component IS 'llm, tts, stt or meter';
COMMENT ON COLUMN toll.latency_days.provider IS 'The provider; empty: none was named';
COMMENT ON COLUMN toll.latency_days.model IS 'The model, or the meter; empty: none was named';
COMMENT ON COLUMN toll.latency_days.metric IS 'ttfb: until the first byte; duration: until the last';
COMMENT ON COLUMN toll.latency_days.bucket IS 'From 1.1^bucket up to 1.1^(bucket + 1) milliseconds';
COMMENT ON COLUMN toll.latency_days.events IS 'How many events took so long';
