-- Price lists into the price book, for `tollctl prices import`: a table of prices, or the list that the LLM-proxy world shares.
--
-- Numbers come as text and stay decimals. All of a list is taken or nothing, and what is refused is named by its place in the list.

-- As they were before other_units.
DROP FUNCTION IF EXISTS toll.import_prices(jsonb, timestamptz, text, text, numeric);
DROP FUNCTION IF EXISTS toll.import_price_list(json, timestamptz, text, text, numeric, text);

CREATE OR REPLACE FUNCTION toll.other_units(price public.pricing_config)
RETURNS TABLE (other public.pricing_config, same boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT b, b.variant = price.variant AND b.currency = price.currency AND b.valid @> price.valid AND CASE b.dimension || ' ' || price.dimension
               WHEN 'minutes seconds' THEN b.price * price.unit_quantity = price.price * b.unit_quantity * 60
               WHEN 'seconds minutes' THEN b.price * price.unit_quantity * 60 = price.price * b.unit_quantity
               ELSE false END
    FROM public.pricing_config AS b
    WHERE price.component IN ('tts', 'stt') AND b.dimension <> price.dimension
      AND (b.scope_kind, b.scope_id, b.component, b.provider, b.model, b.side)
          = (price.scope_kind, price.scope_id, price.component, price.provider, price.model, price.side)
      AND b.withdrawn_at IS NULL AND b.valid && price.valid
    ORDER BY b.variant <> price.variant, b.price_id;
END $$;
REVOKE ALL ON FUNCTION toll.other_units(public.pricing_config) FROM PUBLIC;
COMMENT ON FUNCTION toll.other_units(public.pricing_config) IS
    'The prices of the same synthesis or transcription, in the same scope, of whatever variant, that count by another unit at the time of this one. same: it says'
    ' the same by the minute where this one says it by the second, or the other way round, all that time';

CREATE OR REPLACE FUNCTION toll.import_prices(
    rows jsonb, valid_from timestamptz DEFAULT NULL, side text DEFAULT NULL, currency text DEFAULT NULL, markup_percent numeric DEFAULT NULL,
    other_units text DEFAULT 'refuse')
RETURNS TABLE (action text, place text, price_id bigint, ended_price_id bigint, description text)
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
#variable_conflict use_variable
DECLARE
    r        jsonb;
    p        public.pricing_config;
    other    public.pricing_config;
    rival    record;
    starts   timestamptz;
    ends     timestamptz;
    field    text;
    detail   text;
    refused  text[] := '{}';
    advice   text := '';
BEGIN
    IF markup_percent = 'NaN' OR markup_percent < -100 OR markup_percent > 1000000 OR scale(markup_percent) > 9 THEN
        RAISE EXCEPTION 'toll: a markup is from -100 to 1000000 percent with at most 9 decimals, not %', markup_percent
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF markup_percent IS NOT NULL AND side = 'cost' THEN
        RAISE EXCEPTION 'toll: a markup makes prices to charge, not cost' USING ERRCODE = 'invalid_parameter_value';
    ELSIF markup_percent IS NOT NULL THEN
        side := 'charge';
    END IF;
    IF other_units IS NULL OR other_units NOT IN ('refuse', 'keep', 'replace') THEN
        RAISE EXCEPTION 'toll: prices by another unit: % is neither refuse nor keep (the price book''s) nor replace (by the list''s)',
            coalesce(quote_literal(other_units), 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT string_agg(DISTINCT quote_literal(k), ', ') INTO detail
    FROM jsonb_array_elements(rows) e, jsonb_object_keys(e) k
    WHERE k <> ALL ('{place,problem,price_id,scope_kind,scope_id,component,provider,model,variant,dimension,tier_above,side,price,unit_quantity,'
                    'currency,minimum_seconds,increment_seconds,valid,valid_from,valid_until,source,source_date,created_at,created_by,'
                    'withdrawn_at,withdrawn_by,withdrawn_reason}'::text[]);
    IF detail IS NOT NULL THEN
        RAISE EXCEPTION 'toll: a price has no %; nothing was changed', detail USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The columns are those of pricing_config, with valid_from and valid_until in place of valid if you like.';
    END IF;
    LOCK TABLE public.pricing_config IN SHARE ROW EXCLUSIVE MODE;

    -- Earlier prices first, so that a history ends itself in whatever order it is listed.
    FOR r IN
        SELECT element FROM jsonb_array_elements(rows) WITH ORDINALITY AS e (element, number)
        ORDER BY coalesce(element ->> 'valid_from', ltrim(element ->> 'valid', '["')), number
    LOOP
        place := r ->> 'place';
        action := NULL;
        price_id := NULL;
        ended_price_id := NULL;
        field := '';
        IF r ? 'withdrawn_at' THEN
            action := 'withdrawn';
            description := 'it was taken back where it comes from';
            RETURN NEXT;
            CONTINUE;
        END IF;
        BEGIN
            IF r ? 'problem' THEN
                RAISE EXCEPTION '%', r ->> 'problem';
            END IF;
            p.scope_kind := coalesce(r ->> 'scope_kind', 'default');
            p.scope_id := coalesce(r ->> 'scope_id', '*');
            p.component := r ->> 'component';
            p.provider := coalesce(r ->> 'provider', '*');
            p.model := coalesce(r ->> 'model', '*');
            p.variant := coalesce(r ->> 'variant', '*');
            p.dimension := r ->> 'dimension';
            p.side := coalesce(side, r ->> 'side', 'cost');
            p.currency := coalesce(r ->> 'currency', currency);
            p.source := r ->> 'source';
            field := 'tier_above: ';
            p.tier_above := coalesce((r ->> 'tier_above')::bigint, 0);
            field := 'price: ';
            p.price := (r ->> 'price')::numeric;
            field := 'unit_quantity: ';
            p.unit_quantity := (r ->> 'unit_quantity')::numeric;
            field := 'minimum_seconds: ';
            p.minimum_seconds := coalesce((r ->> 'minimum_seconds')::integer, 0);
            field := 'increment_seconds: ';
            p.increment_seconds := coalesce((r ->> 'increment_seconds')::integer, 0);
            field := 'source_date: ';
            p.source_date := (r ->> 'source_date')::date;
            field := 'valid: ';
            starts := coalesce(valid_from, (r ->> 'valid_from')::timestamptz, lower((r ->> 'valid')::tstzrange), now());
            ends := nullif(coalesce((r ->> 'valid_until')::timestamptz, upper((r ->> 'valid')::tstzrange)), 'infinity');
            field := '';

            IF currency IS NOT NULL AND p.currency <> currency THEN
                RAISE EXCEPTION 'its currency is %, and not % as was asked for', p.currency, currency;
            ELSIF p.price > 0 AND p.price < 1e12 AND markup_percent IS NOT NULL THEN
                p.price := trim_scale(p.price * ((100 + markup_percent) * 0.01));
            END IF;
            field := toll.price_problem(p, starts, ends);
            IF field IS NOT NULL THEN
                RAISE EXCEPTION '%', field;
            END IF;

            SELECT b.* INTO other FROM public.pricing_config b
            WHERE (b.scope_kind, b.scope_id, b.component, b.provider, b.model, b.variant, b.dimension, b.tier_above, b.side)
                  = (p.scope_kind, p.scope_id, p.component, p.provider, p.model, p.variant, p.dimension, p.tier_above, p.side)
              AND b.withdrawn_at IS NULL AND b.valid @> starts;
            IF other.price * p.unit_quantity = p.price * other.unit_quantity
               AND (other.currency, other.minimum_seconds, other.increment_seconds) = (p.currency, p.minimum_seconds, p.increment_seconds)
               AND (ends IS NULL OR ends = upper(other.valid)) THEN
                action := 'unchanged';
                price_id := other.price_id;
                description := toll.price_text(other);
            ELSE
                p.valid := tstzrange(starts, ends);
                FOR rival IN SELECT * FROM toll.other_units(p) LOOP
                    IF rival.same OR other_units = 'keep' THEN
                        action := CASE WHEN rival.same THEN 'unchanged' ELSE 'kept' END;
                        price_id := (rival.other).price_id;
                        description := toll.price_text(rival.other);
                        EXIT;
                    ELSIF other_units = 'replace' AND upper_inf((rival.other).valid) AND lower((rival.other).valid) < starts THEN
                        PERFORM public.end_price((rival.other).price_id, starts);
                        action := 'ended';
                        ended_price_id := (rival.other).price_id;
                        description := toll.price_text(rival.other);
                        RETURN NEXT;
                        action := NULL;
                    END IF;
                END LOOP;
            END IF;
            IF action IS NULL THEN
                price_id := public.set_price(p.component, p.provider, p.model, p.dimension, p.side, p.price, p.unit_quantity, p.currency,
                    starts, p.scope_kind, p.scope_id, p.variant, p.tier_above, p.minimum_seconds, p.increment_seconds, p.source,
                    p.source_date, ends);
                action := CASE WHEN other.price_id IS NULL THEN 'new' ELSE 'changed' END;
                ended_price_id := other.price_id;
                description := toll.price_text(p);
            END IF;
        EXCEPTION
            WHEN raise_exception OR data_exception OR exclusion_violation THEN
                GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
                IF other_units = 'refuse' AND SQLERRM LIKE '%as well would charge it twice' THEN
                    advice := E'\nWhere the book counts by another unit than the list: --other-units keep passes the list''s price over, --other-units replace'
                              ' ends the book''s where the list''s begins.';
                END IF;
                refused := refused || format('%s: %s%s%s', place, CASE WHEN field ~ ': $' THEN field ELSE '' END,
                    replace(SQLERRM, 'toll: ', ''), CASE WHEN detail <> '' THEN E'\n    ' || replace(detail, E'\n', E'\n    ') ELSE '' END);
        END;
        IF action IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
    IF refused <> '{}' THEN
        RAISE EXCEPTION 'toll: % of % prices are refused, so nothing was changed', cardinality(refused), jsonb_array_length(rows)
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = array_to_string(refused[1:50], E'\n')
                      || CASE WHEN cardinality(refused) > 50 THEN format(E'\nand %s more', cardinality(refused) - 50) ELSE '' END || advice;
    END IF;
END $$;
REVOKE ALL ON FUNCTION toll.import_prices(jsonb, timestamptz, text, text, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.import_prices(jsonb, timestamptz, text, text, numeric, text) IS
    'Sets the prices of an array of objects, whose keys are the columns of pricing_config (also valid_from and valid_until; times are UTC where'
    ' they name no zone), with all values as text, and place: what to call it in messages. valid_from and side are for all of them, whatever'
    ' they say, else from now on, and cost; currency, for those that name none; markup_percent makes prices to charge of them: price * (1 + markup_percent / 100), exactly. Returns'
    ' for each whether it is new, changed (ended_price_id: the price that it ended), or unchanged: the price at its start is the'
    ' same already, also where it says so by the minute and not by the second; those that were withdrawn are passed over. Of a synthesis or transcription that'
    ' the book has by another unit: other_units refuse, keep (it is passed over: kept), or replace (the book''s, in the same scope and of whatever variant, end'
    ' where it begins: a row for each, ended). An error that names every refused one (the first 50), and then nothing is changed';

-- Every key of every model of the list, and what becomes of it (fate):
--   price            it is taken: dimension, tier_above and price say as what
--   zero             a 0.0 beside a real price is no price
--   several units    a synthesis or transcription with more than one billable unit, or one unit at two prices
--   several prices   the same model stands there under two names, at two prices
--   output           of reasoning, at the price of output, of which it is a part
--   not mapped       a price, but of nothing that is metered
--   no price         anything else that is said of the model
--   bad              problem says why
CREATE OR REPLACE FUNCTION toll.read_price_list(document json)
RETURNS TABLE (name text, key text, fate text, component text, provider text, model text, dimension text, tier_above bigint, price numeric,
               problem text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off -- nothing is known of how much functions return
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF document IS NULL OR json_typeof(document) <> 'object' THEN
        RAISE EXCEPTION 'toll: a price list is an object: model name -> {litellm_provider, mode, input_cost_per_token ...}'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
    WITH entries AS MATERIALIZED (
        SELECT e.key AS name, e.value AS body, count(*) OVER (PARTITION BY e.key) AS times, json_typeof(e.value) AS type
        FROM json_each(document) e
        WHERE e.key <> 'sample_spec'
    ), models AS MATERIALIZED (
        SELECT e.name, e.body, m.provider,
               CASE WHEN m.provider <> '' AND starts_with(e.name, m.provider || '/') THEN substr(e.name, length(m.provider) + 2)
                    ELSE e.name END AS model,
               CASE WHEN m.mode IN ('chat', 'completion', 'responses', 'embedding', 'realtime', 'rerank') THEN 'llm'
                    WHEN m.mode = 'audio_transcription' THEN 'stt'
                    WHEN m.mode = 'audio_speech' THEN 'tts' END AS component
        FROM entries e, LATERAL (SELECT e.body ->> 'litellm_provider' AS provider, e.body ->> 'mode' AS mode) m
        WHERE e.type = 'object' AND e.times = 1
    ), keys AS MATERIALIZED (
        SELECT m.name, m.provider, m.model, m.component, k.key, json_typeof(k.value) AS type, k.value #>> '{}' AS text,
               CASE WHEN json_typeof(k.value) = 'number' AND length(k.value::text) <= 60 AND k.value::text !~ '[eE][+-]?\d{4}'
                    THEN k.value::text::numeric END AS number,
               coalesce((regexp_match(k.key, '^(.*)_above_\d{1,6}k_tokens$'))[1], k.key) AS base,
               coalesce((regexp_match(k.key, '_above_(\d{1,6})k_tokens$'))[1]::bigint * 1000, 0) AS tier,
               count(*) OVER (PARTITION BY m.name, k.key) AS times
        FROM models m CROSS JOIN LATERAL json_each(m.body) k
        WHERE k.key NOT IN ('litellm_provider', 'mode')
    ), mapped AS MATERIALIZED (
        SELECT k.*, d.dimension, d.unit, k.key ~ 'cost|price|pricing' AS is_price,
               k.number <> 0 OR NOT bool_or(k.number <> 0 AND k.key ~ 'cost') OVER (PARTITION BY k.name) AS counts
        FROM keys k LEFT JOIN (VALUES
            ('llm', 'input_cost_per_token', 'input', 'token'),
            ('llm', 'output_cost_per_token', 'output', 'token'),
            ('llm', 'cache_read_input_token_cost', 'cached_input', 'token'),
            ('llm', 'cache_creation_input_token_cost', 'cache_write', 'token'),
            ('llm', 'input_cost_per_audio_token', 'audio_input', 'token'),
            ('llm', 'output_cost_per_audio_token', 'audio_output', 'token'),
            ('llm', 'cache_read_input_audio_token_cost', 'cached_audio_input', 'token'),
            ('llm', 'input_cost_per_query', 'request', 'request'),
            ('stt', 'input_cost_per_second', 'seconds', 'second'),
            ('stt', 'output_cost_per_second', 'seconds', 'second'),
            ('stt', 'input_cost_per_audio_per_second', 'seconds', 'second'),
            ('stt', 'input_cost_per_token', 'tokens', 'token'),
            ('stt', 'output_cost_per_token', 'tokens', 'token'),
            ('stt', 'input_cost_per_audio_token', 'tokens', 'token'),
            ('tts', 'input_cost_per_character', 'characters', 'character'),
            ('tts', 'output_cost_per_character', 'characters', 'character'),
            ('tts', 'output_cost_per_second', 'audio_minutes', 'second'),
            ('tts', 'output_cost_per_audio_per_second', 'audio_minutes', 'second'),
            ('tts', 'input_cost_per_token', 'tokens', 'token'),
            ('tts', 'output_cost_per_token', 'tokens', 'token'),
            ('tts', 'output_cost_per_audio_token', 'tokens', 'token')
        ) AS d (component, key, dimension, unit)
            ON d.component = k.component AND d.key = k.base AND (k.tier = 0 OR d.component = 'llm')
    ), taken AS MATERIALIZED (
        SELECT * FROM mapped m WHERE m.dimension IS NOT NULL AND m.number IS NOT NULL AND m.counts
    ), several_units AS (
        SELECT t.name FROM taken t WHERE t.component <> 'llm' GROUP BY t.name HAVING count(DISTINCT t.unit) > 1 OR count(DISTINCT t.number) > 1
    ), several_prices AS (
        SELECT t.provider, t.model, t.component, t.dimension, t.tier FROM taken t
        WHERE NOT EXISTS (SELECT FROM several_units s WHERE s.name = t.name)
        GROUP BY t.provider, t.model, t.component, t.dimension, t.tier HAVING count(DISTINCT t.number) > 1
    )
    SELECT m.name, m.key, f.fate, m.component, m.provider, m.model, m.dimension, m.tier,
           -- No provider's unit changes; only the price book knows no seconds of speech.
           CASE WHEN f.fate = 'price' AND m.dimension = 'audio_minutes' THEN trim_scale(m.number * 60) WHEN f.fate = 'price' THEN m.number END,
           CASE WHEN f.fate <> 'bad' THEN NULL
                WHEN m.times > 1 THEN 'this key stands there twice'
                WHEN m.number IS NULL THEN left(m.text, 40) || ' is no number for a price'
                ELSE 'the model has no litellm_provider' END
    FROM mapped m
    LEFT JOIN several_units u ON u.name = m.name
    LEFT JOIN several_prices p ON (p.provider, p.model, p.component, p.dimension, p.tier) = (m.provider, m.model, m.component, m.dimension, m.tier)
    LEFT JOIN mapped o ON m.base = 'output_cost_per_reasoning_token' AND o.name = m.name AND o.base = 'output_cost_per_token'
                      AND o.tier = m.tier AND o.number = m.number
    CROSS JOIN LATERAL (SELECT CASE
        WHEN m.times > 1 THEN 'bad'
        WHEN NOT m.is_price OR m.type = 'null' THEN 'no price'
        WHEN m.dimension IS NULL THEN CASE WHEN o.name IS NOT NULL THEN 'output' WHEN m.number = 0 THEN 'zero' ELSE 'not mapped' END
        WHEN m.number IS NULL OR m.provider IS NULL OR m.provider = '' THEN 'bad'
        WHEN NOT m.counts THEN 'zero'
        WHEN u.name IS NOT NULL THEN 'several units'
        WHEN p.model IS NOT NULL THEN 'several prices'
        ELSE 'price' END AS fate) f
    UNION ALL
    SELECT e.name, NULL, 'bad', NULL, NULL, NULL, NULL, NULL, NULL,
           CASE WHEN e.times > 1 THEN 'this model stands there twice' ELSE 'not an object' END
    FROM (SELECT DISTINCT n.name, n.times, n.type FROM entries n WHERE n.times > 1 OR n.type <> 'object') e;
END $$;
REVOKE ALL ON FUNCTION toll.read_price_list(json) FROM PUBLIC;
COMMENT ON FUNCTION toll.read_price_list(json) IS
    'Reads the price list that the LLM-proxy world shares: what each key of each model is here (fate), and the price, a decimal, of one'
    ' unit: a token, second, character or request, as the list has it; of speech by the second, of a minute';

CREATE OR REPLACE FUNCTION toll.import_price_list(
    document json, valid_from timestamptz DEFAULT NULL, side text DEFAULT NULL, currency text DEFAULT NULL,
    markup_percent numeric DEFAULT NULL, source text DEFAULT NULL, other_units text DEFAULT 'refuse')
RETURNS TABLE (action text, place text, price_id bigint, ended_price_id bigint, description text, models bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    keys jsonb;
    rows jsonb;
BEGIN
    SELECT coalesce(jsonb_agg(to_jsonb(l)), '[]') INTO keys FROM toll.read_price_list(document) l;
    -- The same price under several keys or names is one price.
    SELECT coalesce(jsonb_agg(r.price), '[]') INTO rows
    FROM (SELECT DISTINCT ON (k.component, k.provider, k.model, k.dimension, k.tier_above, k.problem, CASE WHEN k.fate = 'bad' THEN k.name END)
                 jsonb_strip_nulls(jsonb_build_object(
                     'place', k.name || coalesce(': ' || k.key, ''), 'component', k.component, 'provider', k.provider, 'model', k.model,
                     'dimension', k.dimension, 'tier_above', k.tier_above::text, 'price', k.price::text, 'unit_quantity', '1',
                     'currency', coalesce(import_price_list.currency, 'USD'), 'source', import_price_list.source, 'problem', k.problem)) AS price
          FROM jsonb_to_recordset(keys) AS k (name text, key text, fate text, component text, provider text, model text, dimension text,
                                              tier_above bigint, price numeric, problem text)
          WHERE k.fate IN ('price', 'bad')
          ORDER BY k.component, k.provider, k.model, k.dimension, k.tier_above, k.problem, CASE WHEN k.fate = 'bad' THEN k.name END,
                   k.name, k.key) r;
    RETURN QUERY
    SELECT i.action, i.place, i.price_id, i.ended_price_id, i.description, NULL::bigint
    FROM toll.import_prices(rows, coalesce(import_price_list.valid_from, now()), import_price_list.side, import_price_list.currency,
                            import_price_list.markup_percent, import_price_list.other_units) i;
    RETURN QUERY
    SELECT k.fate, k.key, NULL::bigint, NULL::bigint, min(k.name), count(*)
    FROM jsonb_to_recordset(keys) AS k (name text, key text, fate text)
    WHERE k.fate NOT IN ('price', 'bad')
    GROUP BY k.fate, k.key
    ORDER BY k.fate, count(*) DESC, k.key;
END $$;
REVOKE ALL ON FUNCTION toll.import_price_list(json, timestamptz, text, text, numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION toll.import_price_list(json, timestamptz, text, text, numeric, text, text) IS
    'Sets the prices of a list that toll.read_price_list() reads, from valid_from (NULL: now) on, as cost in USD unless side and currency say'
    ' otherwise: see toll.import_prices(). Returns what it did, and each key that is no price here, with its fate as action, in'
    ' how many models it stands, and one of these as description';
