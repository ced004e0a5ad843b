-- How an event's amounts come about, in words. It computes nothing itself: it shows what toll.price_cards and toll.price_events say.

CREATE OR REPLACE FUNCTION toll.explain_event(event_id bigint)
RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    event  toll.rating_input;
    line   toll.rated_line;
    card   toll.price_card;
    terms  text;
    found_ record;
BEGIN
    SELECT (v.input).* INTO event FROM toll.rating_events AS v WHERE v.id = explain_event.event_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'toll: there is no event %', explain_event.event_id USING ERRCODE = 'no_data_found';
    END IF;
    line := (toll.price_events(ARRAY[event]))[1];
    SELECT c.* INTO card FROM toll.price_cards(ARRAY[event]) AS c
    WHERE (c.above = 0 OR event.input_tokens > c.above) AND (c.up_to IS NULL OR event.input_tokens <= c.up_to);

    RETURN NEXT format('event %s: %s%s at %s, session %s', event.event_id, event.component,
                       concat(' ' || nullif(event.provider, ''), ' ' || nullif(event.model, ''), ' ' || nullif(event.meter, ''),
                              ' (' || nullif(event.variant, '') || ')'), event.occurred_at, coalesce(event.session_id::text, 'none'));
    RETURN NEXT format('account %s, charged by %s, plan %s, currency %s%s', coalesce(event.account_id, 'not known yet'),
                       coalesce(event.charge_by, 'nothing yet'), coalesce(nullif(event.scope_plan, ''), 'none'), event.currency,
                       ', markup ' || trim_scale(event.markup_percent) || ' %');
    RETURN NEXT format('quantities %s', line.quantities);
    FOR found_ IN
        SELECT p.price_id, p.side, p.scope_kind, p.scope_id, p.provider, p.model, p.variant, p.dimension, p.tier_above, p.price, p.unit_quantity, p.currency,
               p.valid,
               CASE WHEN p.withdrawn_at IS NOT NULL THEN 'withdrawn'
                    WHEN NOT p.valid @> event.occurred_at THEN 'not valid then'
                    WHEN p.tier_above > 0 AND p.tier_above >= event.input_tokens THEN 'its tier is not reached'
                    WHEN p.price_id = ANY (CASE p.side WHEN 'cost' THEN card.cost_price_ids ELSE line.charge_price_ids END) THEN 'applies'
                    WHEN p.side = 'charge' AND event.charge_by IS DISTINCT FROM 'usage' THEN 'another scheme charges'
                    ELSE 'not needed, or another is nearer' END AS verdict
        FROM public.pricing_config AS p
        WHERE p.component = event.component AND p.provider IN (event.provider, '*') AND p.model IN (event.model, '*')
          AND p.variant IN (event.variant, '*') AND (event.meter = '' OR p.dimension = event.meter)
          AND (p.scope_kind = 'default' OR (p.scope_kind = 'plan' AND p.scope_id = event.scope_plan)
               OR (p.scope_kind = 'account' AND p.scope_id = event.account_id))
        ORDER BY p.side DESC, p.dimension, p.price_id
    LOOP
        RETURN NEXT format('price %s: %s of %s%s, %s%s %s/%s/%s: %s %s per %s, valid %s: %s', found_.price_id, found_.side, found_.dimension,
                           CASE WHEN found_.tier_above > 0 THEN ' above ' || found_.tier_above ELSE '' END, found_.scope_kind,
                           CASE WHEN found_.scope_id <> '*' THEN ' ' || found_.scope_id ELSE '' END, found_.provider, found_.model, found_.variant,
                           found_.price, found_.currency, found_.unit_quantity, found_.valid, found_.verdict);
    END LOOP;

    FOR found_ IN
        SELECT s.* FROM (VALUES
            ('cost', card.cost_weights, card.cost_dimension, card.cost_minimum, card.cost_increment, card.cost_rate, card.cost_divisor, line.cost,
             coalesce(line.cost_missing, card.cost_missing), coalesce(card.cost_currency, event.currency)),
            ('charge', card.charge_weights, card.charge_dimension, card.charge_minimum, card.charge_increment, card.charge_rate, card.charge_divisor,
             line.charge, coalesce(line.charge_missing, card.charge_missing), event.currency)) AS s (side, weights, dimension, minimum, increment, rate, divisor, amount, missing, currency)
    LOOP
        IF found_.side = 'charge' AND event.charge_by IS DISTINCT FROM 'usage' THEN
            RETURN NEXT format('charge: %s', CASE WHEN event.account_id IS NULL THEN 'none, until the account is known'
                                                  ELSE '0 by itself: the account is charged by ' || event.charge_by END);
            CONTINUE;
        ELSIF found_.amount IS NULL THEN
            RETURN NEXT format('%s: unrated: %s', found_.side, found_.missing);
            CONTINUE;
        END IF;
        terms := (
            SELECT string_agg(format('%s %s * %s', trim_scale(q.quantity), q.name, found_.weights[q.slot]), ' + ' ORDER BY q.slot)
            FROM (VALUES
                (1, CASE event.component
                        WHEN 'llm' THEN event.text_input
                        WHEN 'telephony' THEN toll.billed_seconds(event.quantity, found_.minimum, found_.increment)
                        WHEN 'meter' THEN event.quantity
                        ELSE CASE found_.dimension WHEN 'characters' THEN event.characters WHEN 'tokens' THEN event.input_tokens + event.output_tokens
                                                   ELSE event.audio_us END END,
                 CASE event.component WHEN 'llm' THEN 'input' WHEN 'telephony' THEN 'seconds' WHEN 'meter' THEN event.meter
                     ELSE CASE WHEN found_.dimension IN ('characters', 'tokens') THEN found_.dimension ELSE 'microseconds' END END),
                (2, event.cached_input, 'cached_input'), (3, event.cache_write, 'cache_write'), (4, event.audio_input, 'audio_input'),
                (5, event.cached_audio, 'cached_audio_input'), (6, event.text_output, 'output'), (7, event.audio_output, 'audio_output'),
                (8, 1, 'request')) AS q (slot, quantity, name)
            WHERE found_.weights[q.slot] <> 0 AND q.quantity <> 0);
        RETURN NEXT format('%s: %s%s%s%s = %s %s, rounded once, half to even, to nine decimals', found_.side,
                           CASE WHEN found_.rate <> 1 OR found_.divisor <> 1 THEN '(' || coalesce(terms, '0') || ')' ELSE coalesce(terms, '0') END,
                           CASE WHEN found_.rate <> 1 THEN ' * ' || trim_scale(found_.rate) ELSE '' END,
                           CASE WHEN found_.divisor <> 1 THEN ' / ' || found_.divisor ELSE '' END,
                           CASE WHEN found_.side = 'charge' AND card.charge_price_ids = '{}' THEN ' (cost and markup)' ELSE '' END,
                           found_.amount, event.currency);
    END LOOP;

    FOR found_ IN
        SELECT c.* FROM public.billing_charges AS c
        WHERE c.event_id = explain_event.event_id AND c.occurred_at = event.occurred_at ORDER BY c.batch, c.line_id
    LOOP
        RETURN NEXT format('line %s: %s%s, cost %s, charge %s, waived %s %s, account %s, rated batch %s, booked at %s', found_.line_id, found_.kind,
                           coalesce(' (' || found_.reason || ')', ''), coalesce(found_.cost::text, 'none'), coalesce(found_.charge::text, 'none'),
                           found_.waived, found_.currency, coalesce(found_.account_id, 'none'), found_.batch, found_.booked_at);
    END LOOP;
    FOR found_ IN SELECT u.* FROM toll.unrated AS u WHERE u.event_id = explain_event.event_id ORDER BY u.side LOOP
        RETURN NEXT format('unrated: %s, since %s: %s', found_.side, found_.since, found_.missing);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION toll.explain_event(bigint) FROM PUBLIC;
COMMENT ON FUNCTION toll.explain_event(bigint) IS
    'How the event''s cost and charge come about, line by line: its account and scheme, quantities, the prices that could apply and which do, the exact sum'
    ' and its rounding by today''s price book, the lines that were written, what is unrated. Error: no such event';
