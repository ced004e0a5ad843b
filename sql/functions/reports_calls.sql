-- What a call cost, and what the calls of a workflow did, as JSON.

CREATE OR REPLACE FUNCTION toll.report_error(message text)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object('success', false, 'error', message);
COMMENT ON FUNCTION toll.report_error(text) IS 'What reports return instead of figures they can''t give';

CREATE OR REPLACE FUNCTION public.call_costs(call_id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    most_queued CONSTANT integer := 2000; -- in their time call_costs() answers within 20 ms
    wanted     uuid;
    sessions   uuid[];
    queued     uuid[];
    unfinished bigint;
    waiting    bigint;
    events     bigint;
    currencies text;
    answer     jsonb;
BEGIN
    BEGIN
        wanted := call_costs.call_id::uuid;
    EXCEPTION WHEN invalid_text_representation THEN
        NULL; -- not a session's id
    END;
    sessions := ARRAY(SELECT b.session_id FROM public.billing_sessions b WHERE b.session_id = wanted
                      UNION SELECT s.session_id FROM toll.rated_sessions s WHERE s.session_id = wanted);
    IF sessions = '{}' THEN
        -- What rating has not met yet is queued for it. Metadata have no index, so each of them is looked at.
        queued := ARRAY(SELECT q.session_id FROM toll.session_queue q LIMIT most_queued + 1);
        IF cardinality(queued) > most_queued THEN
            RETURN toll.report_error(format('more than %s sessions wait for rating, and any of them may be of call %s: ask for it by its'
                                            ' session id, or once they are rated', most_queued, call_costs.call_id));
        END IF;
        sessions := ARRAY(SELECT s.session_id FROM toll.rated_sessions s WHERE coalesce(s.call_id, s.session_id::text) = call_costs.call_id
                          UNION
                          SELECT b.session_id FROM unnest(queued) AS q (session_id)
                          CROSS JOIN LATERAL (SELECT q.session_id, toll.name_in(b.metadata, 'call_id') AS call_id FROM public.billing_sessions b
                                              WHERE b.session_id = q.session_id OFFSET 0) AS b
                          WHERE b.call_id = call_costs.call_id);
    END IF;
    IF sessions = '{}' THEN
        RETURN toll.report_error(CASE WHEN call_costs.call_id IS NULL THEN 'no call named: call_id is NULL'
                                      ELSE format('no such call: %s', call_costs.call_id) END);
    END IF;
    -- A part would pass for the whole: of a call that is over, and where nothing is rated.
    SELECT count(*) FILTER (WHERE NOT c.rated OR c.waiting > 0 AND (c.over OR c.waiting = c.events)), sum(c.waiting), sum(c.events)
    INTO unfinished, waiting, events
    FROM (SELECT u.id, EXISTS (SELECT FROM toll.rated_sessions s WHERE s.session_id = u.id) AS rated,
                 EXISTS (SELECT FROM public.billing_sessions b WHERE b.session_id = u.id AND b.ended_at IS NOT NULL) AS over, e.events, e.waiting
          FROM unnest(sessions) AS u (id)
          CROSS JOIN LATERAL (SELECT count(*) AS events, count(*) FILTER (WHERE l.event_id IS NULL) AS waiting
                              FROM public.billing_events v
                              LEFT JOIN (SELECT DISTINCT h.event_id FROM public.billing_charges h WHERE h.session_id = u.id) AS l ON l.event_id = v.id
                              WHERE v.session_id = u.id) AS e) AS c;
    IF unfinished > 0 THEN
        RETURN toll.report_error(format('call %s is not rated yet', call_costs.call_id)
            || CASE WHEN waiting > 0 THEN format(': %s of its %s events wait for rating', waiting, events) ELSE '' END);
    END IF;

    SELECT string_agg(DISTINCT c.currency, ' and '),
           jsonb_build_object('success', true, 'data', jsonb_build_object(
               'total', CASE WHEN count(c.total_cost) = count(*) THEN trim_scale(sum(c.total_cost)) END,
               'breakdown', jsonb_build_object(
                   'stt_cost', CASE WHEN count(c.stt_cost) = count(*) THEN trim_scale(sum(c.stt_cost)) END,
                   'llm_cost', CASE WHEN count(c.llm_cost) = count(*) THEN trim_scale(sum(c.llm_cost)) END,
                   'tts_cost', CASE WHEN count(c.tts_cost) = count(*) THEN trim_scale(sum(c.tts_cost)) END,
                   'telephony_cost', CASE WHEN count(c.telephony_inbound_cost + c.telephony_outbound_cost) = count(*)
                                          THEN trim_scale(sum(c.telephony_inbound_cost + c.telephony_outbound_cost)) END,
                   'other_cost', CASE WHEN count(c.other_cost) = count(*) THEN trim_scale(sum(c.other_cost)) END),
               'provider_usage', jsonb_build_object(
                   'stt_minutes', trim_scale(sum(c.stt_minutes)), 'llm_input_tokens', sum(c.llm_input_tokens),
                   'llm_output_tokens', sum(c.llm_output_tokens), 'tts_characters', sum(c.tts_characters))))
    INTO currencies, answer
    FROM public.call_cost_breakdown c
    WHERE c.session_id = ANY (sessions);
    IF currencies LIKE '% and %' THEN
        RETURN toll.report_error(format('call %s has sessions in %s, which don''t add up: ask for each session by its id',
                                        call_costs.call_id, currencies));
    END IF;
    RETURN answer;
END $$;
COMMENT ON FUNCTION public.call_costs(text) IS
    'What providers take for a call, by session id or metadata''s call_id (all its sessions): {"success": true, "data": {"total", "breakdown":'
    ' {"stt_cost", "llm_cost", "tts_cost", "telephony_cost", "other_cost"}, "provider_usage": {"stt_minutes", "llm_input_tokens",'
    ' "llm_output_tokens", "tts_characters"}}}. Amounts are sums of lines in the account''s currency, exact; total is the sum of the breakdown; of a'
    ' live call, so far as it is rated. null: part of it has no price (unrated_events). Minutes have nine decimals. {"success": false, "error"}: no such'
    ' call, stored and not rated yet (all of it, or of a call that is over any event), by a call_id while more than 2,000 sessions wait for rating, or sessions in several'
    ' currencies';

CREATE OR REPLACE FUNCTION public.workflow_rollup(enterprise_id text, workflow_name text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    sessions uuid[] := ARRAY(
        SELECT s.session_id FROM toll.rated_sessions s
        WHERE s.enterprise_id = workflow_rollup.enterprise_id AND s.workflow_name = workflow_rollup.workflow_name);
    answer jsonb := jsonb_build_object(
        '_id', 'mon_' || workflow_rollup.enterprise_id || '_' || workflow_rollup.workflow_name,
        'enterprise_id', workflow_rollup.enterprise_id, 'workflow_name', workflow_rollup.workflow_name);
BEGIN
    IF sessions = '{}' THEN
        RETURN toll.report_error(format('no sessions of enterprise %s, workflow %s', coalesce(quote_literal(workflow_rollup.enterprise_id), 'NULL'),
                                        coalesce(quote_literal(workflow_rollup.workflow_name), 'NULL')));
    END IF;

    SELECT answer || jsonb_build_object(
        'overall_avg', jsonb_build_object(
            'duration_sec', trim_scale(round(avg(t.duration_secs::numeric), 9)),
            'prompt_tokens', trim_scale(round(avg(t.llm_input_tokens), 9)),
            'completion_tokens', trim_scale(round(avg(t.llm_output_tokens), 9)),
            'total_tokens', trim_scale(round(avg(t.llm_input_tokens + t.llm_output_tokens), 9)),
            'cost', CASE WHEN count(c.total_cost) = count(*) AND count(DISTINCT c.currency) <= 1 THEN trim_scale(round(avg(c.total_cost), 9)) END,
            'turns', trim_scale(round(avg(t.llm_calls), 9))),
        'chat_sessions', jsonb_object_agg(t.session_id::text, jsonb_build_object(
            'started_at', t.started_at, 'duration_sec', t.duration_secs, 'tokens', t.llm_input_tokens + t.llm_output_tokens,
            'cost', trim_scale(c.total_cost), 'status', CASE WHEN t.live THEN 'live' ELSE coalesce(t.finish_reason, 'end') END)))
    INTO answer
    FROM public.session_totals t
    JOIN public.call_cost_breakdown c ON c.session_id = t.session_id
    WHERE t.session_id = ANY (sessions) AND c.session_id = ANY (sessions);

    RETURN answer || jsonb_build_object('agents', coalesce((
        -- Each session's lines once.
        WITH lines AS MATERIALIZED (
            SELECT b.event_id, max(b.currency) AS currency,
                   CASE WHEN NOT EXISTS (SELECT FROM toll.unrated n WHERE n.event_id = b.event_id AND n.side = 'cost')
                        THEN sum(b.cost) END AS cost
            FROM unnest(sessions) AS wanted
            JOIN toll.rated_sessions s ON s.session_id = wanted
            CROSS JOIN LATERAL (
                SELECT c.event_id, c.currency, c.cost
                FROM public.billing_charges c
                WHERE c.session_id = s.session_id AND c.account_id IS NOT DISTINCT FROM s.account_id AND c.component = 'llm'
                OFFSET 0) AS b
            GROUP BY b.event_id
        )
        SELECT jsonb_object_agg(a.agent, jsonb_build_object(
            'turns', a.turns, 'prompt_tokens', a.prompt_tokens, 'completion_tokens', a.completion_tokens,
            'cost', CASE WHEN a.rated = a.turns AND a.currencies <= 1 THEN trim_scale(a.cost) END,
            'avg_duration_sec', trim_scale(round(a.avg_duration_ms / 1000, 9)), 'models', a.models))
        FROM (
            SELECT e.agent, count(*) AS turns, sum(e.input_tokens) AS prompt_tokens, sum(e.output_tokens) AS completion_tokens,
                   sum(l.cost) AS cost, count(l.cost) AS rated, count(DISTINCT l.currency) AS currencies,
                   avg(e.duration_ms::numeric) AS avg_duration_ms,
                   coalesce(jsonb_agg(DISTINCT e.model) FILTER (WHERE e.model IS NOT NULL), '[]') AS models
            FROM unnest(sessions) AS wanted
            CROSS JOIN LATERAL (
                SELECT v.id, v.agent, v.model, v.input_tokens, v.output_tokens, v.duration_ms
                FROM public.billing_events v
                WHERE v.session_id = wanted AND v.event_type = 'llm' AND v.agent IS NOT NULL
                OFFSET 0) AS e
            LEFT JOIN lines l ON l.event_id = e.id
            GROUP BY e.agent) AS a), '{}'));
END $$;
COMMENT ON FUNCTION public.workflow_rollup(text, text) IS
    'The sessions whose metadata name this enterprise_id and workflow_name: {"_id": "mon_<enterprise>_<workflow>", "enterprise_id",'
    ' "workflow_name", "overall_avg": {"duration_sec", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "turns"} per session,'
    ' "chat_sessions": {session id: {"started_at", "duration_sec", "tokens", "cost", "status"}}, "agents": {name: {"turns", "prompt_tokens",'
    ' "completion_tokens", "cost", "avg_duration_sec", "models"}}}. A turn is an llm event; those without an agent count in their session only.'
    ' A session''s cost is all that providers take for it (call_cost_breakdown), an agent''s that of its turns; null: part of it has no price or'
    ' currencies differ. Of a live session (status live; else its finish_reason) duration and tokens so far. Averages have nine decimals.'
    ' {"success": false, "error"}: no such sessions';
