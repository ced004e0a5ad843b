-- From events to amounts: the price book's rules. Everything that rates (toll.rate_next, toll.rate_unrated, toll.rerate, the resolution of a session,
-- toll.explain_event) asks toll.price_events, so that no two of them can differ.
--
-- The rules, in the order in which they are applied:
--   1. Lookup, for each dimension and side at the event's own time: the account's prices over the plan's over the default's; then an exact provider,
--      then an exact model, then an exact variant over '*'; then the highest tier that input_tokens exceeds.
--   2. llm: each of the seven disjoint token counts that is not 0 needs a price: its own dimension's, else the gross one (input or output) of its side. A price
--      of dimension request is added once, where there is one. Without any row for (provider, model, variant) on a side, that side is unrated, also of an
--      event without tokens.
--   3. tts, stt: of the dimensions that have a price, the nearest by 1 counts; the quantity that it wants must be known.
--   4. meter, telephony, tariff: by quantity; the dimension is the meter, of a tariff minutes. Telephony counts max(minimum, seconds rounded up to whole increments), 0 if it lasted 0.
--   5. All prices that one side of one event uses have one currency; another one than the account's is converted by the rate valid at the event's time.
--   6. No row at all on the charge side, but the account has a markup: the charge is the exact cost * (1 + markup / 100).
--   7. The exact sum is divided last and rounded once, half to even, to nine decimals. A side that comes to 10^11 or more is unrated: no line holds it.

CREATE OR REPLACE FUNCTION toll.price_cards(events toll.rating_input[])
RETURNS SETOF toll.price_card
LANGUAGE plpgsql STABLE ROWS 5
SET search_path = pg_catalog, pg_temp
-- Nothing here knows how many events there are: hash joins do with any number. jit: the forced plans look expensive.
SET enable_nestloop = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH keys AS MATERIALIZED (
        SELECT row_number() OVER () AS key, k.*
        FROM (SELECT e.component, e.provider, e.model, e.variant, e.meter, e.scope_account, e.scope_plan, e.currency, e.markup_percent,
                     e.charge_by IS NOT DISTINCT FROM 'usage' AS charged, e.uses,
                     min(e.occurred_at) AS first_at, max(e.occurred_at) AS last_at, max(e.input_tokens) AS most_tokens
              FROM unnest(price_cards.events) AS e
              GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11) AS k
    ), candidates AS MATERIALIZED (
        SELECT k.key, p.*
        FROM keys AS k
        CROSS JOIN LATERAL (
            SELECT p.price_id, p.dimension, p.side, p.tier_above, p.price, p.unit_quantity, p.currency, p.minimum_seconds, p.increment_seconds,
                   lower(p.valid) AS from_at, upper(p.valid) AS until_at,
                   CASE p.scope_kind WHEN 'account' THEN 16 WHEN 'plan' THEN 8 ELSE 0 END + (p.provider <> '*')::integer * 4
                   + (p.model <> '*')::integer * 2 + (p.variant <> '*')::integer AS nearness
            -- Through pricing_config_lookup_idx, whatever the planner thinks of the table: no other index has this collation and all rows.
            FROM (VALUES (k.provider, k.model), (k.provider, '*'), ('*', k.model), ('*', '*')) AS n (provider, model)
            CROSS JOIN (VALUES ('*'), (nullif(k.scope_plan, '')), (nullif(k.scope_account, ''))) AS s (scope_id)
            CROSS JOIN LATERAL (
                SELECT c.* FROM public.pricing_config AS c
                WHERE c.component = k.component COLLATE "C" AND c.provider = n.provider COLLATE "C" AND c.model = n.model COLLATE "C"
                  AND c.scope_id = s.scope_id COLLATE "C" OFFSET 0) AS p
            WHERE p.withdrawn_at IS NULL AND p.variant IN (k.variant, '*')
              AND (p.scope_kind = 'default' OR (p.scope_kind = 'plan' AND p.scope_id = k.scope_plan)
                   OR (p.scope_kind = 'account' AND p.scope_id = k.scope_account))
              AND (p.side = 'cost' OR k.charged)
              AND (k.component NOT IN ('meter', 'telephony') OR p.dimension = k.meter)
              AND (p.tier_above = 0 OR p.tier_above < k.most_tokens)
              AND p.valid && tstzrange(k.first_at, k.last_at, '[]')
            OFFSET 0) AS p
    ), rates AS MATERIALIZED (
        SELECT c.key, c.currency AS from_currency, f.*
        FROM (SELECT DISTINCT d.key, d.currency FROM candidates AS d) AS c
        JOIN keys AS k ON k.key = c.key AND k.currency <> c.currency
        CROSS JOIN LATERAL (
            SELECT x.rate, lower(x.valid) AS from_at, upper(x.valid) AS until_at
            FROM public.fx_rates AS x
            WHERE x.from_currency = c.currency AND x.to_currency = k.currency AND x.valid && tstzrange(k.first_at, k.last_at, '[]')
            OFFSET 0) AS f
    -- Within a span of time no price and no rate begins or ends; within a tier no other tier does.
    ), spans AS (
        SELECT t.key, t.at AS from_at, lead(t.at) OVER (PARTITION BY t.key ORDER BY t.at) AS until_at
        FROM (SELECT k.key, k.first_at AS at FROM keys AS k
              UNION
              SELECT k.key, b.at
              FROM (SELECT c.key, c.from_at AS at FROM candidates AS c UNION ALL SELECT c.key, c.until_at FROM candidates AS c
                    UNION ALL SELECT r.key, r.from_at FROM rates AS r UNION ALL SELECT r.key, r.until_at FROM rates AS r) AS b
              JOIN keys AS k ON k.key = b.key
              WHERE b.at > k.first_at AND b.at <= k.last_at) AS t
    ), tiers AS (
        SELECT t.key, t.above, lead(t.above) OVER (PARTITION BY t.key ORDER BY t.above) AS up_to
        FROM (SELECT k.key, 0::bigint AS above FROM keys AS k UNION SELECT c.key, c.tier_above FROM candidates AS c) AS t
    ), cells AS MATERIALIZED (
        SELECT row_number() OVER () AS cell, s.key, s.from_at, s.until_at, t.above, t.up_to, k.component, k.uses
        FROM spans AS s JOIN tiers AS t ON t.key = s.key JOIN keys AS k ON k.key = s.key
    -- The price of each quantity (slot). Slot 0: whether there is any.
    ), fits AS (
        SELECT DISTINCT ON (l.cell, c.side, o.slot)
            l.cell, l.uses, l.component, c.side, o.slot, c.dimension, c.price_id, c.price, trunc(c.unit_quantity) * o.factor AS unit, c.currency,
            c.minimum_seconds, c.increment_seconds, o.wants
        FROM cells AS l
        JOIN candidates AS c ON c.key = l.key
        JOIN (VALUES ('input', 1, true, 1, 0), ('input', 2, false, 1, 0), ('input', 3, false, 1, 0), ('input', 4, false, 1, 0),
                     ('input', 5, false, 1, 0), ('cached_input', 2, true, 1, 0), ('cache_write', 3, true, 1, 0),
                     ('audio_input', 4, true, 1, 0), ('cached_audio_input', 5, true, 1, 0), ('output', 6, true, 1, 0),
                     ('output', 7, false, 1, 0), ('audio_output', 7, true, 1, 0), ('request', 8, true, 1, 0),
                     ('characters', 1, true, 1, 1), ('audio_minutes', 1, true, 60000000, 2), ('minutes', 1, true, 60000000, 2),
                     ('seconds', 1, true, 1000000, 2), ('tokens', 1, true, 1, 4), ('telephony', 1, true, 60, 1), ('meter', 1, true, 1, 1), ('tariff', 1, true, 1, 1),
                     ('input', 0, true, 1, 0), ('cached_input', 0, true, 1, 0), ('cache_write', 0, true, 1, 0), ('audio_input', 0, true, 1, 0),
                     ('cached_audio_input', 0, true, 1, 0), ('output', 0, true, 1, 0), ('audio_output', 0, true, 1, 0), ('request', 0, true, 1, 0))
              AS o (dimension, slot, own, factor, wants)
          ON o.dimension = CASE WHEN l.component IN ('telephony', 'meter', 'tariff') THEN l.component ELSE c.dimension END
        WHERE c.from_at <= l.from_at AND (c.until_at IS NULL OR c.until_at > l.from_at) AND c.tier_above <= l.above
          AND (l.component <> 'llm' OR o.slot IN (0, 8) OR l.uses & (1 << (o.slot - 1)) <> 0)
        ORDER BY l.cell, c.side, o.slot, o.own DESC, c.nearness DESC, c.tier_above DESC, c.dimension, c.price_id
    ), sides AS (
        SELECT
            w.cell, w.side, max(w.divisor) AS whole,
            ARRAY[coalesce(max(w.weight) FILTER (WHERE w.slot = 1), 0), coalesce(max(w.weight) FILTER (WHERE w.slot = 2), 0),
                  coalesce(max(w.weight) FILTER (WHERE w.slot = 3), 0), coalesce(max(w.weight) FILTER (WHERE w.slot = 4), 0),
                  coalesce(max(w.weight) FILTER (WHERE w.slot = 5), 0), coalesce(max(w.weight) FILTER (WHERE w.slot = 6), 0),
                  coalesce(max(w.weight) FILTER (WHERE w.slot = 7), 0), coalesce(max(w.weight) FILTER (WHERE w.slot = 8), 0)] AS weights,
            max(w.dimension) FILTER (WHERE w.slot = 1) AS dimension, max(w.minimum_seconds) AS minimum, max(w.increment_seconds) AS increment,
            coalesce(array_agg(w.price_id) FILTER (WHERE w.nth = 1 AND w.slot > 0), '{}') AS price_ids,
            array_agg(w.currency) FILTER (WHERE w.slot > 0) AS currencies,
            min(w.currency) FILTER (WHERE w.slot > 0) AS currency, max(w.currency) FILTER (WHERE w.slot > 0) AS last_currency,
            coalesce(bit_or(1 << (w.slot - 1)) FILTER (WHERE w.slot BETWEEN 1 AND 7), 0) AS priced, max(w.wants) AS wants
        FROM (SELECT d.*, d.price * div(d.divisor, d.unit) AS weight
              FROM (SELECT f.*, toll.lcm_of(f.unit) OVER (PARTITION BY f.cell, f.side) AS divisor,
                           -- A price may be that of several slots. This order is also that of price_ids.
                           row_number() OVER (PARTITION BY f.cell, f.side, f.price_id ORDER BY f.slot = 0, f.slot) AS nth
                    FROM fits AS f
                    ORDER BY f.cell, f.side, f.price_id) AS d) AS w
        GROUP BY w.cell, w.side
    -- Tens go from the divisor into the weights: what is left is mostly 1, and nothing to divide by.
    ), priced AS (
        SELECT s.cell, s.side, s.dimension, s.minimum, s.increment, s.price_ids, s.currency, div(s.whole, s.up) AS divisor,
               -- Multiplying is exact, which dividing is not.
               ARRAY[trim_scale(s.weights[1] * s.down), trim_scale(s.weights[2] * s.down), trim_scale(s.weights[3] * s.down),
                     trim_scale(s.weights[4] * s.down), trim_scale(s.weights[5] * s.down), trim_scale(s.weights[6] * s.down),
                     trim_scale(s.weights[7] * s.down), trim_scale(s.weights[8] * s.down)] AS weights,
               CASE WHEN s.currency = k.currency OR s.currency IS NULL THEN 1 ELSE r.rate END AS rate,
               CASE
                   WHEN l.component = 'llm' AND s.priced & l.uses <> l.uses
                   THEN 'llm: no price of ' || concat_ws(' and ', CASE WHEN l.uses & ~s.priced & 31 <> 0 THEN 'input' END,
                                                         CASE WHEN l.uses & ~s.priced & 96 <> 0 THEN 'output' END)
                   WHEN l.component <> 'llm' AND s.wants & ~l.uses <> 0
                   THEN l.component || ': no ' || CASE s.wants WHEN 1 THEN CASE l.component WHEN 'tts' THEN 'char_count' ELSE 'quantity' END
                                                               WHEN 2 THEN 'audio_duration_ms' ELSE 'tokens' END
                   WHEN s.currency <> s.last_currency
                   THEN l.component || ': prices in several currencies: ' || (SELECT string_agg(DISTINCT u.name, ', ') FROM unnest(s.currencies) AS u (name))
                   WHEN s.currency <> k.currency AND r.rate IS NULL
                   THEN format('%s: no rate of %s to %s', k.component, s.currency, k.currency)
               END AS missing
        FROM (SELECT t.*, ('1e' || t.tens)::numeric AS up, ('1e-' || t.tens)::numeric AS down
              FROM (SELECT q.*, length(q.whole::text) - length(rtrim(q.whole::text, '0')) AS tens FROM sides AS q OFFSET 0) AS t OFFSET 0) AS s
        JOIN cells AS l ON l.cell = s.cell
        JOIN keys AS k ON k.key = l.key
        LEFT JOIN rates AS r ON r.key = l.key AND r.from_currency = s.currency AND r.from_at <= l.from_at
                                AND (r.until_at IS NULL OR r.until_at > l.from_at)
    )
    SELECT
        k.component, k.provider, k.model, k.variant, k.meter, k.scope_account, k.scope_plan, k.currency, k.markup_percent, k.charged, k.uses,
        l.from_at, l.until_at, l.above, l.up_to,
        CASE WHEN c.missing IS NULL THEN c.weights END, c.divisor, c.rate, c.dimension, c.minimum, c.increment, c.currency,
        CASE WHEN c.missing IS NULL THEN c.price_ids END,
        CASE WHEN c.cell IS NULL THEN k.component || ': no price' ELSE c.missing END,
        CASE WHEN h.cell IS NOT NULL THEN CASE WHEN h.missing IS NULL THEN h.weights END
             WHEN k.markup_percent IS NOT NULL AND c.missing IS NULL THEN c.weights END,
        CASE WHEN h.cell IS NOT NULL THEN h.divisor ELSE c.divisor END,
        CASE WHEN h.cell IS NOT NULL THEN h.rate ELSE c.rate * (100 + k.markup_percent) * 0.01 END,
        CASE WHEN h.cell IS NOT NULL THEN h.dimension ELSE c.dimension END,
        CASE WHEN h.cell IS NOT NULL THEN h.minimum ELSE c.minimum END,
        CASE WHEN h.cell IS NOT NULL THEN h.increment ELSE c.increment END,
        CASE WHEN h.cell IS NULL THEN '{}' WHEN h.missing IS NULL THEN h.price_ids END,
        CASE WHEN h.cell IS NOT NULL THEN h.missing
             WHEN k.markup_percent IS NULL THEN k.component || ': no price'
             WHEN c.cell IS NULL THEN k.component || ': no price, and no cost to mark up'
             ELSE c.missing END
    FROM cells AS l
    JOIN keys AS k ON k.key = l.key
    LEFT JOIN priced AS c ON c.cell = l.cell AND c.side = 'cost'
    LEFT JOIN priced AS h ON h.cell = l.cell AND h.side = 'charge';
END $$;
REVOKE ALL ON FUNCTION toll.price_cards(toll.rating_input[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.price_cards(toll.rating_input[]) IS
    'What these kinds of events cost and are charged: a card for each kind (component, provider, model, variant, meter, scopes, currency, uses), span of time'
    ' and tier, exact: amount = sum(quantity * weight) * rate / divisor, of quantities as toll.price_events takes them (audio in microseconds, telephony in seconds).'
    ' weights NULL: unrated, *_missing says why';

CREATE OR REPLACE FUNCTION toll.leave_unheld(lines toll.rated_line[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    line   toll.rated_line;
    number bigint := 0;
    result toll.rated_line[] := '{}';
BEGIN
    FOREACH line IN ARRAY lines LOOP
        number := number + (coalesce(greatest(line.cost, line.cost_original, line.charge), 0) >= 1e11)::integer;
        IF greatest(line.cost, line.cost_original) >= 1e11 THEN
            line.cost_original := NULL;
            line.cost_currency := NULL;
            line.cost := NULL;
            line.cost_price_ids := NULL;
            line.cost_missing := toll.unheld(line.component);
            line.unrated_cost := 1;
        END IF;
        IF line.charge >= 1e11 THEN
            line.charge := NULL;
            line.charge_price_ids := NULL;
            line.charge_missing := toll.unheld(line.component);
            line.unrated_charge := 1;
        END IF;
        result := result || line;
    END LOOP;
    RAISE WARNING 'toll: % events cost or are charged 100000000000 or more, and are unrated: see unrated_events', number;
    RETURN result;
END $$;
REVOKE ALL ON FUNCTION toll.leave_unheld(toll.rated_line[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.leave_unheld(toll.rated_line[]) IS
    'These usage lines, with the sides unrated whose amount has more digits than billing_charges holds (eleven before the point). Warns of them';

-- As it was when it returned a set.
DROP FUNCTION IF EXISTS toll.price_events(toll.rating_input[]);
CREATE OR REPLACE FUNCTION toll.price_events(events toll.rating_input[])
RETURNS toll.rated_line[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off
SET enable_mergejoin = off
SET jit = off
SET work_mem = '64MB'
AS $$
DECLARE
    lines  toll.rated_line[];
    unheld boolean;
BEGIN
    IF price_events.events = '{}' THEN
        RETURN '{}';
    END IF;
    SELECT array_agg(ROW(
        a.event_id * 2, a.event_id, a.occurred_at, a.session_id, a.account_id, a.business_id, a.component, nullif(a.provider, ''),
        CASE WHEN a.meter <> '' THEN a.meter ELSE nullif(a.model, '') END, nullif(a.variant, ''), a.quantities,
        a.cost_original, CASE WHEN a.cost_original IS NOT NULL THEN coalesce(a.cost_currency, a.currency) END,
        CASE WHEN a.cost_rate = 1 THEN a.cost_original ELSE a.cost_converted END, a.amount,
        0::numeric, a.currency,
        a.cost_price_ids, CASE WHEN a.charge_by = 'usage' THEN a.charge_price_ids END,
        'usage', CASE WHEN a.charge_by <> 'usage' THEN a.charge_by END, a.closed_until,
        a.scope_plan, NULL::numeric,
        a.cost_missing, CASE WHEN a.charge_by = 'usage' THEN a.charge_missing END,
        1, 0, a.input_tokens::bigint, a.cached_input_tokens::bigint, a.output_tokens::bigint, a.characters::bigint, a.audio_us, a.quantity,
        (a.cost_missing IS NOT NULL)::integer, coalesce((a.charge_by = 'usage' AND a.charge_missing IS NOT NULL)::integer, 0))::toll.rated_line),
        bool_or(a.cost_original >= 1e11 OR a.cost_converted >= 1e11 OR a.amount >= 1e11)
    INTO lines, unheld
    -- OFFSET 0: else sums and amounts would be put, and worked out, wherever they are used.
    FROM (SELECT
        s.*, toll.divide_half_even(s.cost_sum, s.cost_divisor, 9) AS cost_original,
        CASE WHEN s.cost_rate <> 1 THEN toll.divide_half_even(s.cost_sum * s.cost_rate, s.cost_divisor, 9) END AS cost_converted,
        CASE WHEN s.account_id IS NULL THEN NULL
             WHEN s.charge_by <> 'usage' THEN 0::numeric
             ELSE toll.divide_half_even(s.charge_sum * s.charge_rate, s.charge_divisor, 9) END AS amount
    FROM (
        SELECT
            e.*, c.cost_rate, c.cost_divisor, c.cost_currency, c.cost_price_ids, c.cost_missing,
            c.charge_rate, c.charge_divisor, c.charge_price_ids, c.charge_missing,
            CASE e.component
                WHEN 'llm' THEN e.text_input * c.cost_weights[1] + e.text_output * c.cost_weights[6] + c.cost_weights[8]
                    + CASE WHEN e.uses & 94 = 0 THEN 0
                           ELSE e.cached_input * c.cost_weights[2] + e.cache_write * c.cost_weights[3] + e.audio_input * c.cost_weights[4]
                                + e.cached_audio * c.cost_weights[5] + e.audio_output * c.cost_weights[7] END
                WHEN 'meter' THEN e.quantity * c.cost_weights[1]
                WHEN 'tariff' THEN NULL
                WHEN 'telephony' THEN toll.billed_seconds(e.quantity, c.cost_minimum, c.cost_increment) * c.cost_weights[1]
                ELSE CASE c.cost_dimension WHEN 'characters' THEN e.characters WHEN 'tokens' THEN e.input_tokens::bigint + e.output_tokens
                                           ELSE e.audio_us END * c.cost_weights[1]
            END AS cost_sum,
            CASE e.component
                WHEN 'llm' THEN e.text_input * c.charge_weights[1] + e.text_output * c.charge_weights[6] + c.charge_weights[8]
                    + CASE WHEN e.uses & 94 = 0 THEN 0
                           ELSE e.cached_input * c.charge_weights[2] + e.cache_write * c.charge_weights[3] + e.audio_input * c.charge_weights[4]
                                + e.cached_audio * c.charge_weights[5] + e.audio_output * c.charge_weights[7] END
                WHEN 'meter' THEN e.quantity * c.charge_weights[1]
                WHEN 'tariff' THEN e.quantity * c.charge_weights[1]
                WHEN 'telephony' THEN toll.billed_seconds(e.quantity, c.charge_minimum, c.charge_increment) * c.charge_weights[1]
                ELSE CASE c.charge_dimension WHEN 'characters' THEN e.characters WHEN 'tokens' THEN e.input_tokens::bigint + e.output_tokens
                                             ELSE e.audio_us END * c.charge_weights[1]
            END AS charge_sum,
            CASE e.component
                WHEN 'llm' THEN CASE
                    WHEN e.uses & 94 = 0 THEN jsonb_build_object('input', e.text_input, 'output', e.text_output)
                    ELSE jsonb_build_object(
                        'input', e.text_input, 'cached_input', e.cached_input, 'cache_write', e.cache_write, 'audio_input', e.audio_input,
                        'cached_audio_input', e.cached_audio, 'output', e.text_output, 'audio_output', e.audio_output) END
                WHEN 'stt' THEN CASE
                    WHEN e.uses = 2 THEN jsonb_build_object('audio_ms', e.audio_us * 0.001)
                    ELSE jsonb_strip_nulls(jsonb_build_object(
                        'audio_ms', CASE WHEN e.uses & 2 <> 0 THEN e.audio_us * 0.001 END,
                        'tokens', CASE WHEN e.uses & 4 <> 0 THEN e.input_tokens::bigint + e.output_tokens END)) END
                WHEN 'tts' THEN CASE
                    WHEN e.uses = 1 THEN jsonb_build_object('characters', e.characters)
                    ELSE jsonb_strip_nulls(jsonb_build_object(
                        'characters', CASE WHEN e.uses & 1 <> 0 THEN e.characters END,
                        'audio_ms', CASE WHEN e.uses & 2 <> 0 THEN e.audio_us * 0.001 END,
                        'tokens', CASE WHEN e.uses & 4 <> 0 THEN e.input_tokens::bigint + e.output_tokens END)) END
                WHEN 'telephony' THEN jsonb_strip_nulls(jsonb_build_object(
                    'quantity', e.quantity,
                    'billed_seconds', toll.billed_seconds(
                        e.quantity, CASE WHEN c.charge_weights IS NULL THEN c.cost_minimum ELSE c.charge_minimum END,
                        CASE WHEN c.charge_weights IS NULL THEN c.cost_increment ELSE c.charge_increment END),
                    'cost_billed_seconds', CASE
                        WHEN c.charge_weights IS NOT NULL
                             AND (c.cost_minimum, c.cost_increment) IS DISTINCT FROM (c.charge_minimum, c.charge_increment)
                        THEN toll.billed_seconds(e.quantity, c.cost_minimum, c.cost_increment) END))
                ELSE jsonb_build_object('quantity', e.quantity)
            END AS quantities
        FROM unnest(price_events.events) AS e
        JOIN toll.price_cards(price_events.events) AS c
          ON c.component = e.component AND c.provider = e.provider AND c.model = e.model AND c.variant = e.variant AND c.meter = e.meter
             AND c.scope_account = e.scope_account AND c.scope_plan = e.scope_plan AND c.currency = e.currency
             AND coalesce(c.markup_percent, -101) = coalesce(e.markup_percent, -101)
             AND c.charged = (e.charge_by IS NOT DISTINCT FROM 'usage') AND c.uses = e.uses
        WHERE e.occurred_at >= c.from_at AND (c.until_at IS NULL OR e.occurred_at < c.until_at)
          AND (e.input_tokens > c.above OR c.above = 0) AND (c.up_to IS NULL OR e.input_tokens <= c.up_to)
        OFFSET 0) AS s
    OFFSET 0) AS a;
    IF unheld THEN
        lines := toll.leave_unheld(lines);
    END IF;
    RETURN coalesce(lines, '{}');
END $$;
REVOKE ALL ON FUNCTION toll.price_events(toll.rating_input[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.price_events(toll.rating_input[]) IS
    'The usage line of each event, not yet written and nothing waived: amounts rounded once, half to even, to nine decimals; NULL where *_missing says why';
