-- Token counts of a line, gross again. Bodies of expressions only and without SET, so that the planner puts them in the place of the call.

CREATE OR REPLACE FUNCTION toll.input_tokens(quantities jsonb)
RETURNS bigint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN coalesce((quantities ->> 'input')::bigint, 0) + coalesce((quantities ->> 'cached_input')::bigint, 0)
    + coalesce((quantities ->> 'cache_write')::bigint, 0) + coalesce((quantities ->> 'audio_input')::bigint, 0)
    + coalesce((quantities ->> 'cached_audio_input')::bigint, 0);
COMMENT ON FUNCTION toll.input_tokens(jsonb) IS 'Input tokens, gross, of a line''s quantities (billing_charges): the sum of their disjoint parts';

CREATE OR REPLACE FUNCTION toll.output_tokens(quantities jsonb)
RETURNS bigint
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN coalesce((quantities ->> 'output')::bigint, 0) + coalesce((quantities ->> 'audio_output')::bigint, 0);
COMMENT ON FUNCTION toll.output_tokens(jsonb) IS 'Output tokens, gross, of a line''s quantities (billing_charges): the sum of their disjoint parts';
