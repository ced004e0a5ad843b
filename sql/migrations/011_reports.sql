-- What reports need beside lines and roll-ups: quantities per month, and ways to a call's rows.

CREATE TABLE toll.meter_months (
    account_id   text,
    period_start date,
    business_id  text,
    meter        text,
    derived      boolean,
    events       bigint NOT NULL,
    quantity     numeric NOT NULL,
    PRIMARY KEY (account_id, period_start, business_id, meter, derived)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE toll.meter_months IS
    'Sums of toll.usage_rollup per meter and calendar month, so that reports over all of it need not read quarters of an hour. Kept by triggers';
COMMENT ON COLUMN toll.meter_months.account_id IS 'The account; empty: not known';
COMMENT ON COLUMN toll.meter_months.period_start IS 'First day of the month, in the account''s time zone; of usage whose account is not known: of UTC';
COMMENT ON COLUMN toll.meter_months.business_id IS 'The business; empty: none named';
COMMENT ON COLUMN toll.meter_months.meter IS 'The meter, as in usage_quotas';
COMMENT ON COLUMN toll.meter_months.derived IS
    'True: counted from calls (an llm event is one api_call, an ended voice session so many voice_minute); false: reported by usage frames. Only one'
    ' of the two counts: where a meter was reported, what was derived does not';
COMMENT ON COLUMN toll.meter_months.events IS 'Events, or sessions (voice_minute, derived)';
COMMENT ON COLUMN toll.meter_months.quantity IS 'How much, in the meter''s unit';

CREATE INDEX unrated_session_id_idx ON toll.unrated (session_id);

-- The name a call goes by in reports: metadata's call_id, else its session's id.
CREATE INDEX rated_sessions_call_log_id_idx ON toll.rated_sessions ((coalesce(call_id, session_id::text)));
DROP INDEX toll.rated_sessions_call_id_idx;
CREATE INDEX rated_sessions_unrated_idx ON toll.rated_sessions (ended_at) WHERE billed_minutes IS NOT NULL AND billed_amount IS NULL;
