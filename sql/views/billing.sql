-- What people read of money, quotas and providers. Figures are sums of lines (billing_charges) and of the roll-ups kept with them.

CREATE OR REPLACE VIEW public.stage_latency AS
SELECT component, provider, model, metric, events, p50_ms, p90_ms, p95_ms, p99_ms
FROM public.stage_latency(now() - interval '7 days', now());
COMMENT ON VIEW public.stage_latency IS
    'How long each provider and model took in the last seven days, as percentiles that are at most 4.9 % off. For other times: stage_latency(from, to)';
COMMENT ON COLUMN public.stage_latency.component IS 'llm, tts, stt or meter';
COMMENT ON COLUMN public.stage_latency.provider IS 'The provider';
COMMENT ON COLUMN public.stage_latency.model IS 'The model';
COMMENT ON COLUMN public.stage_latency.metric IS 'ttfb: until the first byte; duration: until the last';
COMMENT ON COLUMN public.stage_latency.events IS 'Events that reported it';
COMMENT ON COLUMN public.stage_latency.p50_ms IS 'Half of them took at most so many milliseconds';
COMMENT ON COLUMN public.stage_latency.p90_ms IS 'Nine in ten';
COMMENT ON COLUMN public.stage_latency.p95_ms IS 'Nineteen in twenty';
COMMENT ON COLUMN public.stage_latency.p99_ms IS 'Ninety-nine in a hundred';
