-- How long providers take: the histogram's buckets, and percentiles from it. Rating counts events into toll.latency_rollup; older quarters are in
-- toll.latency_days too (reports_sums.sql).

-- Bodies of expressions only and without SET, so that the planner puts them in the place of the call: they run once per event.
CREATE OR REPLACE FUNCTION toll.latency_bucket(ms float8)
RETURNS smallint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN ms >= 0 AND ms < 'Infinity'
            THEN floor(ln(greatest(ms, 0.001::float8)) / ln(1.1::float8))::smallint
       END;
COMMENT ON FUNCTION toll.latency_bucket(float8) IS
    'The bucket of toll.latency_rollup for a time in milliseconds: bucket n is from 1.1^n up to 1.1^(n+1) ms; 0 counts as a microsecond. NULL for'
    ' NULL, NaN, infinity and below 0: such a time is not counted. toll.latency_ms() is the way back';

CREATE OR REPLACE FUNCTION toll.latency_ms(bucket smallint)
RETURNS float8
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN power(1.1::float8, bucket + 0.5::float8);
COMMENT ON FUNCTION toll.latency_ms(smallint) IS
    'Milliseconds a bucket of toll.latency_rollup stands for: its geometric middle, at most 4.9 % from any time in it';

CREATE OR REPLACE FUNCTION public.stage_latency(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (component text, provider text, model text, metric text, events bigint, p50_ms float8, p90_ms float8, p95_ms float8,
               p99_ms float8)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    -- Whole days of UTC within, and from where on quarters of theirs are not in them.
    first_day timestamptz := date_trunc('day', from_time + interval '1 day' - interval '1 microsecond', 'UTC');
    days_end  timestamptz := date_trunc('day', to_time, 'UTC');
    rest      timestamptz;
BEGIN
    IF from_time IS NULL OR to_time IS NULL THEN
        RAISE EXCEPTION 'toll: stage_latency needs two times' USING ERRCODE = 'null_value_not_allowed';
    ELSIF from_time > to_time THEN
        RAISE EXCEPTION 'toll: from % is after to %', from_time, to_time USING ERRCODE = 'invalid_parameter_value';
    END IF;
    rest := greatest(first_day, least(days_end, (SELECT s.until FROM toll.usage_summed s)));
    RETURN QUERY
    WITH counted AS (
        SELECT l.component, l.provider, l.model, l.metric, l.bucket, sum(l.events) AS events
        FROM (SELECT d.component, d.provider, d.model, d.metric, d.bucket, d.events
              FROM toll.latency_days d
              WHERE d.day >= (first_day AT TIME ZONE 'UTC')::date AND d.day < (days_end AT TIME ZONE 'UTC')::date
              UNION ALL
              SELECT q.component, q.provider, q.model, q.metric, q.bucket, q.events
              FROM toll.latency_rollup q
              WHERE q.quarter >= from_time AND q.quarter < least(first_day, to_time)
              UNION ALL
              SELECT q.component, q.provider, q.model, q.metric, q.bucket, q.events
              FROM toll.latency_rollup q
              WHERE q.quarter >= rest AND q.quarter < to_time) AS l
        GROUP BY l.component, l.provider, l.model, l.metric, l.bucket
    ), ranked AS (
        SELECT c.*, sum(c.events) OVER (stage ORDER BY c.bucket) AS up_to, sum(c.events) OVER stage AS of_all
        FROM counted c
        WHERE c.events > 0
        WINDOW stage AS (PARTITION BY c.component, c.provider, c.model, c.metric)
    )
    -- Nearest rank: the first bucket that reaches it.
    SELECT r.component, r.provider, r.model, r.metric, sum(r.events)::bigint,
           toll.latency_ms(min(r.bucket) FILTER (WHERE r.up_to >= r.of_all * 0.50)),
           toll.latency_ms(min(r.bucket) FILTER (WHERE r.up_to >= r.of_all * 0.90)),
           toll.latency_ms(min(r.bucket) FILTER (WHERE r.up_to >= r.of_all * 0.95)),
           toll.latency_ms(min(r.bucket) FILTER (WHERE r.up_to >= r.of_all * 0.99))
    FROM ranked r
    GROUP BY r.component, r.provider, r.model, r.metric
    ORDER BY r.component, r.provider, r.model, r.metric;
END $$;
COMMENT ON FUNCTION public.stage_latency(timestamptz, timestamptz) IS
    'How long each provider and model took, of the usage in quarters of an hour (UTC) that begin at from_time or later and before to_time:'
    ' percentiles in milliseconds until the first byte (metric ttfb) and the last (duration), at most 4.9 % off. A stage without events has no row.'
    ' Error: from_time after to_time';
