-- The price book: how prices get in, end, and are taken back. What is charged by them is rating's (rating_*.sql).
--
-- Who may set prices calls these functions and can't touch the table; a trigger keeps what is in it as it is for everybody.

CREATE OR REPLACE FUNCTION toll.price_text(price public.pricing_config)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
BEGIN
    RETURN format('%s of %s %s %s%s, %s%s: %s %s per %s%s, %s, from %s %s',
        price.side, price.component, price.provider, price.model,
        CASE WHEN price.variant <> '*' THEN ' ' || price.variant ELSE '' END,
        price.dimension,
        CASE WHEN price.tier_above > 0 THEN format(' above %s tokens', price.tier_above) ELSE '' END,
        price.price, price.currency, price.unit_quantity,
        CASE WHEN price.minimum_seconds + price.increment_seconds > 0
             THEN format(' (at least %s s, in steps of %s s)', price.minimum_seconds, price.increment_seconds) ELSE '' END,
        CASE price.scope_kind WHEN 'default' THEN 'for everybody' ELSE format('for %s %s', price.scope_kind, price.scope_id) END,
        lower(price.valid), coalesce('to ' || upper(price.valid), 'on'));
END $$;
REVOKE ALL ON FUNCTION toll.price_text(public.pricing_config) FROM PUBLIC;
COMMENT ON FUNCTION toll.price_text(public.pricing_config) IS 'A price in words, for messages; times are UTC';

-- The row as it would be inserted, or NULL in valid where its times are no range; checked by toll.price_problem().
CREATE OR REPLACE FUNCTION toll.price_problem(price public.pricing_config, valid_from timestamptz, valid_until timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name     text;
    value    text;
    expected text[];
BEGIN
    FOR name, value IN SELECT * FROM (VALUES
        ('component', price.component), ('provider', price.provider), ('model', price.model), ('variant', price.variant),
        ('dimension', price.dimension), ('side', price.side), ('currency', price.currency), ('scope_kind', price.scope_kind),
        ('scope_id', price.scope_id)) AS v LOOP
        IF value IS NULL OR value = '' THEN
            RETURN format('%s is missing%s', name, CASE WHEN name IN ('provider', 'model', 'variant') THEN ' (* means any)' ELSE '' END);
        ELSIF octet_length(value) > 256 THEN
            RETURN format('%s is longer than 256 bytes: %s...', name, left(value, 40));
        END IF;
    END LOOP;

    IF price.component NOT IN ('llm', 'tts', 'stt', 'telephony', 'meter', 'tariff') THEN
        RETURN format('component %L is none of llm, tts, stt, telephony, meter, tariff', price.component);
    ELSIF price.side NOT IN ('cost', 'charge') THEN
        RETURN format('side %L is neither cost (what the provider takes) nor charge (what the customer pays)', price.side);
    ELSIF price.component = 'tariff' AND price.side <> 'charge' THEN
        RETURN 'a tariff is what customers pay: its side is charge';
    ELSIF price.component = 'tariff' AND (price.provider <> '*' OR price.model <> '*') THEN
        RETURN 'a tariff is for a call''s minutes, whoever served it: provider and model are *, its id is the variant';
    END IF;

    expected := CASE price.component
        WHEN 'llm' THEN '{input,cached_input,cache_write,audio_input,cached_audio_input,output,audio_output,request}'::text[]
        WHEN 'tts' THEN '{characters,audio_minutes,tokens}'
        WHEN 'stt' THEN '{minutes,seconds,tokens}'
        WHEN 'telephony' THEN '{telephony_inbound,telephony_outbound}'
        WHEN 'tariff' THEN '{minutes}' END;
    IF NOT price.dimension = ANY (expected) THEN
        RETURN format('dimension %L is none of %s, which %s has', price.dimension, array_to_string(expected, ', '), price.component);
    ELSIF price.component = 'meter' AND price.dimension IN ('telephony_inbound', 'telephony_outbound') THEN
        RETURN format('%s is a dimension of component telephony', price.dimension);
    ELSIF price.component = 'llm' AND price.variant NOT IN ('*', 'voice', 'text') THEN
        RETURN format('variant %L of an llm price is neither voice nor text nor *', price.variant);
    END IF;

    IF price.price IS NULL THEN
        RETURN 'price is missing';
    ELSIF price.price = 'NaN' OR price.price IN ('Infinity', '-Infinity') THEN
        RETURN format('price %s is no number', price.price);
    ELSIF price.price < 0 THEN
        RETURN format('price %s is negative', price.price);
    ELSIF price.price >= 1e12 THEN
        RETURN 'price is 1000000000000 or more';
    ELSIF scale(price.price) > 30 THEN
        RETURN format('price %s has more than 30 decimals', price.price);
    ELSIF price.unit_quantity IS NULL THEN
        RETURN 'unit_quantity is missing: how many units the price is for, such as 1, 1000, 1000000';
    ELSIF price.unit_quantity = 'NaN' OR price.unit_quantity <= 0 OR price.unit_quantity > 1e12
          OR price.unit_quantity <> trunc(price.unit_quantity) THEN
        RETURN format('unit_quantity %s is not a whole number from 1 to 1000000000000', price.unit_quantity);
    ELSIF price.currency !~ '^[A-Z]{3}$' THEN
        RETURN format('currency %L is not an ISO 4217 code of three capitals, such as USD', price.currency);
    ELSIF price.tier_above IS NULL OR price.tier_above < 0 THEN
        RETURN format('tier_above %s is not a number of tokens', coalesce(price.tier_above::text, 'NULL'));
    ELSIF price.tier_above > 0 AND price.component <> 'llm' THEN
        RETURN 'only llm prices have a tier_above';
    ELSIF NOT coalesce(price.minimum_seconds BETWEEN 0 AND 86400 AND price.increment_seconds BETWEEN 0 AND 86400, false) THEN
        RETURN 'minimum_seconds and increment_seconds are from 0 to 86400';
    ELSIF price.minimum_seconds + price.increment_seconds > 0 AND price.component <> 'telephony' THEN
        RETURN 'only telephony prices have minimum_seconds and increment_seconds';
    END IF;

    IF price.scope_kind NOT IN ('account', 'plan', 'default') THEN
        RETURN format('scope_kind %L is none of account, plan, default', price.scope_kind);
    ELSIF price.scope_kind = 'default' AND price.scope_id <> '*' THEN
        RETURN format('a default price is for everybody: scope_id is *, not %L', price.scope_id);
    ELSIF price.scope_kind <> 'default' AND price.scope_id = '*' THEN
        RETURN format('scope_id must name the %s', price.scope_kind);
    ELSIF price.scope_kind = 'plan' AND NOT EXISTS (SELECT FROM public.plans p WHERE p.plan_id = price.scope_id) THEN
        RETURN format('there is no plan %L', price.scope_id);
    END IF;

    IF valid_from IS NULL OR NOT isfinite(valid_from) THEN
        RETURN 'valid_from is missing: from when the price applies';
    ELSIF valid_until <= valid_from THEN
        RETURN format('valid_until %s is not after valid_from %s', valid_until, valid_from);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION toll.price_problem(public.pricing_config, timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION toll.price_problem(public.pricing_config, timestamptz, timestamptz) IS
    'What is wrong with a price that somebody wants to set, in words; NULL: nothing';

CREATE OR REPLACE FUNCTION public.set_price(
    component text, provider text, model text, dimension text, side text, price numeric, unit_quantity numeric, currency text,
    valid_from timestamptz, scope_kind text DEFAULT 'default', scope_id text DEFAULT '*', variant text DEFAULT '*',
    tier_above bigint DEFAULT 0, minimum_seconds integer DEFAULT 0, increment_seconds integer DEFAULT 0,
    source text DEFAULT NULL, source_date date DEFAULT NULL, valid_until timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    wanted  public.pricing_config;
    other   public.pricing_config;
    problem text;
BEGIN
    valid_until := nullif(valid_until, 'infinity');
    wanted.scope_kind := scope_kind;
    wanted.scope_id := scope_id;
    wanted.component := component;
    wanted.provider := provider;
    wanted.model := model;
    wanted.variant := variant;
    wanted.dimension := dimension;
    wanted.tier_above := tier_above;
    wanted.side := side;
    wanted.price := price;
    wanted.unit_quantity := unit_quantity;
    wanted.currency := currency;
    wanted.minimum_seconds := minimum_seconds;
    wanted.increment_seconds := increment_seconds;
    wanted.source := source;
    wanted.source_date := source_date;
    problem := toll.price_problem(wanted, valid_from, valid_until);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'toll: %', problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    wanted.valid := tstzrange(valid_from, valid_until);

    -- One at a time: what is looked at must still hold when the row is there. Readers don't wait.
    LOCK TABLE public.pricing_config IN SHARE ROW EXCLUSIVE MODE;
    FOR other IN
        SELECT p.* FROM public.pricing_config p
        WHERE (p.scope_kind, p.scope_id, p.component, p.provider, p.model, p.variant, p.dimension, p.tier_above, p.side)
              = (scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side)
          AND p.withdrawn_at IS NULL AND p.valid && wanted.valid
        ORDER BY p.valid
    LOOP
        IF NOT upper_inf(other.valid) OR lower(other.valid) >= valid_from THEN
            RAISE EXCEPTION 'toll: this price would overlap price %', other.price_id USING ERRCODE = 'exclusion_violation',
                DETAIL = format(E'price %s: %s\nthe new one: %s', other.price_id, toll.price_text(other), toll.price_text(wanted)),
                HINT = format('Choose times that do not overlap; or, if price %s was never right: withdraw_price(%s, ''why'').',
                              other.price_id, other.price_id);
        END IF;
        UPDATE public.pricing_config p SET valid = tstzrange(lower(other.valid), valid_from) WHERE p.price_id = other.price_id;
    END LOOP;

    -- One synthesis or transcription must not have two prices.
    SELECT p.* INTO other FROM public.pricing_config p
    WHERE component IN ('tts', 'stt') AND p.component = component AND p.provider = provider AND p.model = model
      AND p.side = side AND p.dimension <> dimension AND p.withdrawn_at IS NULL AND p.valid && wanted.valid
    ORDER BY p.valid, p.price_id LIMIT 1;
    IF other.price_id IS NOT NULL THEN
        RAISE EXCEPTION 'toll: % % % is billed by % already (price %): by % as well would charge it twice', component, provider,
            model, other.dimension, other.price_id, dimension USING ERRCODE = 'exclusion_violation',
            DETAIL = format(E'price %s: %s\nthe new one: %s', other.price_id, toll.price_text(other), toll.price_text(wanted)),
            HINT = format('If the provider changes its unit: end_price(%s, %L) first; if price %s was never right: withdraw_price(%s, ''why'').',
                          other.price_id, valid_from, other.price_id, other.price_id);
    END IF;

    INSERT INTO public.pricing_config AS p (
        scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side, price, unit_quantity, currency,
        minimum_seconds, increment_seconds, valid, source, source_date)
    VALUES (scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side, price, unit_quantity, currency,
            minimum_seconds, increment_seconds, wanted.valid, source, source_date)
    RETURNING p.price_id INTO wanted.price_id;
    RETURN wanted.price_id;
END $$;
REVOKE ALL ON FUNCTION public.set_price(text, text, text, text, text, numeric, numeric, text, timestamptz, text, text, text, bigint,
    integer, integer, text, date, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION public.set_price(text, text, text, text, text, numeric, numeric, text, timestamptz, text, text, text, bigint,
    integer, integer, text, date, timestamptz) IS
    'Adds a price: `price` in `currency` for unit_quantity units, from valid_from on (valid_until: up to, not at, that time), and'
    ' returns its price_id. The columns of pricing_config say what the rest means; * means any. The open price for the same'
    ' thing ends at valid_from. Nothing is rounded. Refused: a price that is negative, NaN, 1e12 or more or has over 30 decimals; one'
    ' that would overlap another (both are shown); for tts and stt a second billable unit of one provider and model. Usage'
    ' that was rated already keeps its lines: toll.rerate()';

CREATE OR REPLACE FUNCTION public.end_price(price_id bigint, valid_until timestamptz)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    price public.pricing_config;
BEGIN
    LOCK TABLE public.pricing_config IN SHARE ROW EXCLUSIVE MODE;
    SELECT p.* INTO price FROM public.pricing_config p WHERE p.price_id = price_id;
    IF price.price_id IS NULL THEN
        RAISE EXCEPTION 'toll: there is no price %', price_id USING ERRCODE = 'no_data_found';
    ELSIF price.withdrawn_at IS NOT NULL THEN
        RAISE EXCEPTION 'toll: price % was withdrawn at %', price_id, price.withdrawn_at USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT upper_inf(price.valid) THEN
        RAISE EXCEPTION 'toll: price % has an end already: %', price_id, upper(price.valid) USING ERRCODE = 'invalid_parameter_value';
    ELSIF valid_until IS NULL OR NOT isfinite(valid_until) OR valid_until <= lower(price.valid) THEN
        RAISE EXCEPTION 'toll: price % begins at %: its end must be after that', price_id, lower(price.valid)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE public.pricing_config p SET valid = tstzrange(lower(price.valid), valid_until) WHERE p.price_id = price_id;
END $$;
REVOKE ALL ON FUNCTION public.end_price(bigint, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION public.end_price(bigint, timestamptz) IS
    'Ends an open price at valid_until: usage from then on has no price, until another one is set. An error for a price that is not'
    ' there, has an end or was withdrawn';

CREATE OR REPLACE FUNCTION public.withdraw_price(price_id bigint, reason text)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    price public.pricing_config;
BEGIN
    IF reason IS NULL OR btrim(reason) = '' THEN
        RAISE EXCEPTION 'toll: say why price % is withdrawn', price_id USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE public.pricing_config IN SHARE ROW EXCLUSIVE MODE;
    SELECT p.* INTO price FROM public.pricing_config p WHERE p.price_id = price_id;
    IF price.price_id IS NULL THEN
        RAISE EXCEPTION 'toll: there is no price %', price_id USING ERRCODE = 'no_data_found';
    ELSIF price.withdrawn_at IS NOT NULL THEN
        RAISE EXCEPTION 'toll: price % was withdrawn at % already', price_id, price.withdrawn_at USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE public.pricing_config p SET withdrawn_at = now(), withdrawn_by = session_user, withdrawn_reason = reason
    WHERE p.price_id = price_id;
END $$;
REVOKE ALL ON FUNCTION public.withdraw_price(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION public.withdraw_price(bigint, text) IS
    'Takes back a price that was never right; it no longer applies to any time. Set the right one with set_price(), which may begin in'
    ' the past, then see toll.rerate() for usage that was rated by it. What it ended stays ended. An error for a price that is'
    ' not there or was withdrawn';

CREATE OR REPLACE FUNCTION toll.guard_prices()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    allowed public.pricing_config;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        allowed := OLD;
        IF OLD.withdrawn_at IS NULL AND NEW.withdrawn_at IS NOT NULL THEN
            allowed.withdrawn_at := NEW.withdrawn_at;
            allowed.withdrawn_by := NEW.withdrawn_by;
            allowed.withdrawn_reason := NEW.withdrawn_reason;
        ELSIF OLD.withdrawn_at IS NULL AND upper_inf(OLD.valid) AND lower(NEW.valid) = lower(OLD.valid) THEN
            allowed.valid := NEW.valid;
        END IF;
        IF NEW OPERATOR(pg_catalog.*=) allowed THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'toll: prices stay as they are: % of pricing_config is refused. Use set_price(), end_price(), withdraw_price()', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
REVOKE ALL ON FUNCTION toll.guard_prices() FROM PUBLIC;
COMMENT ON FUNCTION toll.guard_prices() IS
    'Trigger: of a price nothing changes but the end of an open one, once, and its withdrawal, once; none is deleted';
CREATE OR REPLACE TRIGGER guard BEFORE UPDATE OR DELETE ON public.pricing_config
    FOR EACH ROW EXECUTE FUNCTION toll.guard_prices();
CREATE OR REPLACE TRIGGER guard_truncate BEFORE TRUNCATE ON public.pricing_config
    FOR EACH STATEMENT EXECUTE FUNCTION toll.guard_prices();
ALTER TABLE public.pricing_config ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER guard_truncate;

CREATE OR REPLACE FUNCTION public.set_fx_rate(
    from_currency text, to_currency text, rate numeric, valid_from timestamptz, source text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    other   public.fx_rates;
    made    bigint;
BEGIN
    IF NOT coalesce(from_currency ~ '^[A-Z]{3}$' AND to_currency ~ '^[A-Z]{3}$', false) OR from_currency = to_currency THEN
        RAISE EXCEPTION 'toll: % and % are not two ISO 4217 codes of three capitals, such as USD and EUR',
            coalesce(from_currency, 'NULL'), coalesce(to_currency, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    ELSIF rate IS NULL OR rate = 'NaN' OR rate <= 0 OR rate >= 1e12 OR scale(rate) > 18 THEN
        RAISE EXCEPTION 'toll: the rate is how many % one % is, above 0 and below 1000000000000, with at most 18 decimals; not %',
            to_currency, from_currency, coalesce(rate::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    ELSIF valid_from IS NULL OR NOT isfinite(valid_from) THEN
        RAISE EXCEPTION 'toll: valid_from is missing: from when the rate applies' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE public.fx_rates IN SHARE ROW EXCLUSIVE MODE;
    FOR other IN
        SELECT r.* FROM public.fx_rates r
        WHERE r.from_currency = from_currency AND r.to_currency = to_currency AND r.valid && tstzrange(valid_from, NULL)
        ORDER BY r.valid
    LOOP
        IF NOT upper_inf(other.valid) OR lower(other.valid) >= valid_from THEN
            RAISE EXCEPTION 'toll: this rate would overlap rate %', other.fx_rate_id USING ERRCODE = 'exclusion_violation',
                DETAIL = format(E'rate %s: 1 %s = %s %s, %s\nthe new one: 1 %s = %s %s, from %s on', other.fx_rate_id,
                                from_currency, other.rate, to_currency, other.valid, from_currency, rate, to_currency, valid_from);
        END IF;
        UPDATE public.fx_rates r SET valid = tstzrange(lower(other.valid), valid_from) WHERE r.fx_rate_id = other.fx_rate_id;
    END LOOP;
    INSERT INTO public.fx_rates AS r (from_currency, to_currency, rate, valid, source)
    VALUES (from_currency, to_currency, rate, tstzrange(valid_from, NULL), source)
    RETURNING r.fx_rate_id INTO made;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION public.set_fx_rate(text, text, numeric, timestamptz, text) FROM PUBLIC;
COMMENT ON FUNCTION public.set_fx_rate(text, text, numeric, timestamptz, text) IS
    'Adds an exchange rate: one unit of from_currency is `rate` units of to_currency from valid_from on; the open one before ends there.'
    ' Returns its number. Refused: what is no currency, a rate that is not above 0 (or NaN), one that would overlap a later one.'
    ' The way back is a rate of its own. Usage that was rated already keeps its lines: toll.rerate()';
