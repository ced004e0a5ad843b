-- Roles and their privileges. tolld --migrate runs this after the rest; where it may not, it says so and a superuser
-- runs it:
--     psql -d DATABASE -f roles.sql
-- Idempotent. Roles are those of the whole cluster; they can't log in, they are granted: GRANT toll_ingest TO ...
--
--   toll_owner        owns everything. Whoever migrates, drops partitions or erases is a member.
--   toll_ingest       what tolld needs, and no more: it can't read what was said, nor change or delete stored events.
--   toll_reader       reads sessions, events, views and bookkeeping; not what was said, nor the bytes in quarantine.
--   toll_transcripts  toll_reader, and what was said.
--   toll_wallet       owns balances and ledgers, and the functions that write them. Nobody is to be granted it but toll_owner, so that
--                     whoever migrates can replace these.
--   toll_billing      tops up, refunds, adjusts and reserves, sets prices, makes accounts, rates again and closes months, by the functions for it.
--   toll_rating       what tolld's rating needs: to call it. Granted to toll_ingest, so that tolld has one login.

DO $$
DECLARE
    wanted text;
    may    boolean := (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user);
BEGIN
    FOREACH wanted IN ARRAY ARRAY['toll_owner', 'toll_ingest', 'toll_reader', 'toll_transcripts',
                                  'toll_wallet', 'toll_billing', 'toll_rating'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = wanted);
        IF NOT may THEN
            RAISE NOTICE 'toll: % may not create role %: let a superuser run roles.sql in this database',
                current_user, wanted;
            RETURN;
        END IF;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database's migration was first
        END;
    END LOOP;
    IF may AND NOT pg_has_role('toll_transcripts', 'toll_reader', 'MEMBER') THEN
        GRANT toll_reader TO toll_transcripts;
    END IF;
    IF may AND NOT pg_has_role('toll_owner', 'toll_wallet', 'MEMBER') THEN
        GRANT toll_wallet TO toll_owner;
    END IF;
    IF may AND NOT pg_has_role('toll_ingest', 'toll_rating', 'MEMBER') THEN
        GRANT toll_rating TO toll_ingest;
    END IF;
    -- Lets tolld check a foreign key once per session instead of once per row.
    IF NOT has_parameter_privilege('toll_ingest', 'session_replication_role', 'SET') THEN
        GRANT SET ON PARAMETER session_replication_role TO toll_ingest;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'toll: %: tolld will check foreign keys row by row until a superuser runs roles.sql', SQLERRM;
END $$;

-- Everything to toll_owner. Whoever owned it so far becomes a member: tolld may be running as him.
DO $$
DECLARE
    old_owner text := (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'toll');
    object    record;
BEGIN
    IF old_owner IS NULL OR NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'toll_owner') THEN
        RETURN;
    ELSIF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        IF old_owner <> 'toll_owner' THEN
            RAISE NOTICE 'toll: the tables stay with %: only a superuser gives them to toll_owner', old_owner;
        END IF;
        RETURN;
    END IF;
    IF NOT pg_has_role(old_owner, 'toll_owner', 'MEMBER') THEN
        EXECUTE format('GRANT toll_owner TO %I', old_owner);
    END IF;
    -- For the views and tables of later migrations.
    GRANT USAGE, CREATE ON SCHEMA public TO toll_owner;
    FOR object IN
        SELECT 'SCHEMA' AS kind, 'toll' AS name WHERE old_owner <> 'toll_owner'
        UNION ALL
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END,
               c.oid::regclass::text
        FROM pg_class c
        WHERE pg_get_userbyid(c.relowner) NOT IN ('toll_owner', 'toll_wallet')
          AND c.relkind IN ('r', 'p', 'v', 'S', 'c')
          AND (c.relnamespace = 'toll'::regnamespace
               OR c.oid IN (to_regclass('public.billing_sessions'), to_regclass('public.billing_events'),
                            to_regclass('public.session_transcripts'), to_regclass('public.session_totals'),
                            to_regclass('public.live_sessions'), to_regclass('public.model_usage'),
                            to_regclass('public.model_usage_daily'),
                            to_regclass('public.accounts'), to_regclass('public.plans'), to_regclass('public.usage_quotas'),
                            to_regclass('public.pricing_config'), to_regclass('public.fx_rates'),
                            to_regclass('public.billing_charges')))
          -- A serial column's sequence follows its table.
          AND NOT EXISTS (SELECT FROM pg_depend d
                          WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
                            AND d.deptype IN ('a', 'i'))
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text
        FROM pg_proc p
        WHERE p.pronamespace = 'toll'::regnamespace AND pg_get_userbyid(p.proowner) NOT IN ('toll_owner', 'toll_wallet')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO toll_owner', object.kind, object.name);
    END LOOP;
END $$;

DO $$
BEGIN
    IF to_regclass('toll.removed_rows') IS NULL OR EXISTS (
        SELECT FROM unnest(ARRAY['toll_ingest', 'toll_reader', 'toll_transcripts', 'toll_rating']) AS wanted
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)) THEN
        RETURN; -- before the first migration, or without the roles
    ELSIF NOT pg_has_role(current_user, (SELECT nspowner FROM pg_namespace WHERE nspname = 'toll'), 'USAGE') THEN
        RAISE NOTICE 'toll: % does not own schema toll and can''t grant privileges in it', current_user;
        RETURN;
    END IF;

    REVOKE ALL ON ALL TABLES IN SCHEMA toll FROM toll_ingest, toll_reader, toll_transcripts, toll_rating;
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA toll FROM toll_ingest, toll_reader, toll_transcripts, toll_rating;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA toll FROM toll_ingest, toll_reader, toll_transcripts, toll_rating;
    REVOKE ALL ON public.billing_sessions, public.billing_events, public.session_transcripts
        FROM toll_ingest, toll_reader, toll_transcripts, toll_rating;
    GRANT USAGE ON SCHEMA toll TO toll_ingest, toll_reader;

    -- Both: what says where toll stands, and the proof.
    GRANT SELECT ON toll.migrations, toll.meta, toll.open_sessions, toll.journals, toll.journal_runs, toll.journal_shares, toll.streams, toll.batches, toll.batch_rollups, toll.gaps, toll.removed_rows,
        toll.session_sums, toll.stream_holes, toll.journal_status, toll.quarantine_summary, toll.partitions
        TO toll_ingest, toll_reader;
    GRANT SELECT ON public.billing_sessions, public.billing_events TO toll_ingest, toll_reader;
    GRANT SELECT ON public.session_totals, public.live_sessions, public.model_usage, public.model_usage_daily
        TO toll_ingest, toll_reader;
    GRANT SELECT (id, session_id, turn_id, role, language, interrupted, occurred_at, occurred_at_reported, batch_id)
        ON public.session_transcripts TO toll_ingest, toll_reader;
    GRANT SELECT (id, batch_id, journal_id, lsn, frame_index, stream_id, seq, uid, pid, received_at, reason)
        ON toll.quarantine TO toll_ingest, toll_reader;
    GRANT EXECUTE ON FUNCTION toll.verify(timestamptz), toll.verify_rows_query(name, regclass), toll.batch_key(bigint)
        TO toll_ingest, toll_reader;

    GRANT INSERT, UPDATE ON toll.journals TO toll_ingest;
    GRANT INSERT, UPDATE, DELETE ON toll.journal_runs TO toll_ingest;
    GRANT INSERT, UPDATE, DELETE ON toll.streams TO toll_ingest;
    GRANT INSERT ON toll.batches, toll.session_queue, toll.quarantine, toll.gaps TO toll_ingest;
    GRANT INSERT, UPDATE ON public.billing_sessions TO toll_ingest;
    GRANT INSERT, DELETE ON toll.open_sessions TO toll_ingest;
    GRANT INSERT ON public.billing_events, public.session_transcripts TO toll_ingest;
    GRANT SELECT (bytes) ON toll.quarantine TO toll_ingest;
    GRANT USAGE ON SEQUENCE toll.batch_id_seq, toll.quarantine_id_seq, toll.gaps_id_seq, public.billing_events_id_seq,
        public.session_transcripts_id_seq TO toll_ingest;
    GRANT EXECUTE ON FUNCTION toll.insert_sessions(uuid, integer, toll.session_change[]),
        toll.settle_sessions(uuid, integer, toll.session_change[]), toll.heard_since(uuid, timestamptz), toll.last_row_at(uuid),
        toll.idle_sessions(uuid, integer, integer, bigint, bigint), toll.claim_journal(uuid, integer, integer, uuid, uuid),
        toll.register_journal(uuid, bigint[], text, text), toll.share_journal(uuid, uuid, bigint, integer, integer),
        toll.recompute_totals(uuid[]), toll.make_partition(date), toll.make_partitions(integer), toll.prune_batches(interval),
        toll.sum_usage(interval)
        TO toll_ingest;

    GRANT SELECT ON public.session_transcripts TO toll_transcripts;

    GRANT USAGE ON SCHEMA toll TO toll_rating;
    GRANT SELECT ON toll.journals, toll.rating_progress, toll.session_credit, toll.open_sessions TO toll_rating;
    GRANT EXECUTE ON FUNCTION toll.rate_next(uuid, integer, integer), toll.rate_free(uuid, integer, integer), toll.rating_backlog()
        TO toll_rating;
    GRANT EXECUTE ON FUNCTION toll.explain_event(bigint) TO toll_reader;
    IF to_regrole('toll_billing') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA toll TO toll_billing;
        GRANT EXECUTE ON FUNCTION toll.rate_unrated(integer), toll.rerate(timestamptz, timestamptz, boolean), toll.resolve_sessions(uuid[]),
            toll.close_period(text, date), toll.explain_event(bigint) TO toll_billing;
    END IF;
END $$;

-- Reports: views and functions in public, which run with the rights of who asks, so that toll_reader reads what they read.
DO $$
DECLARE
    object record;
BEGIN
    IF to_regclass('toll.meter_months') IS NULL OR to_regclass('public.call_cost_breakdown') IS NULL OR to_regrole('toll_owner') IS NULL
        OR to_regrole('toll_reader') IS NULL
        OR NOT pg_has_role(current_user, (SELECT nspowner FROM pg_namespace WHERE nspname = 'toll'), 'USAGE') THEN
        RETURN; -- said above
    END IF;
    FOR object IN
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS name
        FROM unnest('{public.call_cost_breakdown,public.message_cost_breakdown,public.unrated_events,public.unrated_sessions,'
                    'public.unresolved_sessions,public.usage_sessions,public.usage_events,public.usage_aggregation,public.billing_overview,'
                    'public.quota_status,public.stage_latency,'
                    'public.accounts,public.plans,public.usage_quotas,public.pricing_config,public.fx_rates,public.billing_charges}'::regclass[])
            AS t (oid)
        JOIN pg_class c ON c.oid = t.oid
        WHERE c.relowner <> to_regrole('toll_owner')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text
        FROM unnest('{public.call_costs(text),public.workflow_rollup(text\,text),public.billing_analytics(text\,text\,integer),'
                    'public.revenue_minutes(timestamp\,timestamp\,text\,text),public.account_statement(text\,timestamptz\,timestamptz),'
                    'public.stage_latency(timestamptz\,timestamptz)}'::regprocedure[])
            AS t (oid)
        JOIN pg_proc p ON p.oid = t.oid
        WHERE p.proowner <> to_regrole('toll_owner')
    LOOP
        CONTINUE WHEN NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user); -- said above
        EXECUTE format('ALTER %s %s OWNER TO toll_owner', object.kind, object.name);
    END LOOP;

    GRANT SELECT ON public.call_cost_breakdown, public.message_cost_breakdown, public.unrated_events, public.unrated_sessions,
        public.unresolved_sessions, public.usage_sessions, public.usage_events, public.usage_aggregation, public.billing_overview,
        public.quota_status, public.stage_latency TO toll_reader;
    GRANT SELECT ON public.accounts, public.plans, public.usage_quotas, public.pricing_config, public.fx_rates, public.billing_charges,
        toll.rating_settings, toll.rating_progress, toll.rated_sessions, toll.unrated, toll.usage_rollup, toll.latency_rollup, toll.plan_usage,
        toll.meter_months, toll.quarter_meters, toll.month_meters, toll.quota_alerts, toll.closed_periods,
        toll.usage_summed, toll.usage_days, toll.business_zones, toll.tariff_quarters, toll.latency_days TO toll_reader;
    GRANT SELECT ON toll.session_queue TO toll_reader;
    GRANT EXECUTE ON FUNCTION toll.business_usage(text, text, text, date, date), toll.name_in(jsonb, text), toll.minutes_due(numeric, numeric, numeric),
        toll.divide_half_even(numeric, numeric, integer) TO toll_reader;
    IF to_regrole('toll_billing') IS NOT NULL THEN
        GRANT SELECT ON public.unrated_events, public.unrated_sessions, toll.rated_sessions TO toll_billing;
        GRANT EXECUTE ON FUNCTION toll.minutes_due(numeric, numeric, numeric), toll.divide_half_even(numeric, numeric, integer) TO toll_billing;
    END IF;
END $$;

DO $$
BEGIN
    IF to_regrole('toll_ingest') IS NOT NULL THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO toll_ingest', current_database());
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO toll_reader, toll_transcripts', current_database());
    END IF;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    NULL; -- PUBLIC has it, unless somebody took it away
END $$;

-- Wallets: their tables and functions belong to toll_wallet, which may otherwise read what it needs and no more. Others call the functions.
DO $$
DECLARE
    ours    text[] := ARRAY['lock_wallets', 'available_credit', 'tariff_price', 'tell_crossings', 'follow_credit', 'mark_sessions',
                            'refresh_credit', 'check_credit', 'lock_debits', 'book_debits', 'debit', 'settle_wallets',
                            'link_holds', 'release_holds', 'open_wallet', 'booked_before', 'refusal', 'book_credit', 'book_cents',
                            'book_minutes', 'create_wallet', 'set_low_balance', 'add_credits',
                            'refund_credits', 'adjust_credits', 'add_minutes', 'adjust_minutes', 'reserve', 'release', 'get_balance',
                            'has_sufficient_balance', 'credit_history'];
    super   boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    rating  regrole := coalesce(to_regrole('toll_rating'), to_regrole('toll_ingest'));
    object  record;
BEGIN
    IF to_regclass('toll.wallet_credit') IS NULL OR to_regrole('toll_wallet') IS NULL OR to_regrole('toll_billing') IS NULL
        OR rating IS NULL OR to_regrole('toll_reader') IS NULL
        OR NOT pg_has_role(current_user, (SELECT nspowner FROM pg_namespace WHERE nspname = 'toll'), 'USAGE') THEN
        RETURN; -- said above
    END IF;
    FOR object IN
        SELECT 'TABLE' AS kind, c.oid::regclass::text AS name
        FROM unnest('{public.customer_balance,public.credit_transactions,public.wallet_transactions,public.credit_holds,'
                    'public.low_balance_alerts,toll.wallet_credit,toll.session_credit}'::regclass[]) AS t (oid)
        JOIN pg_class AS c ON c.oid = t.oid
        WHERE c.relowner <> to_regrole('toll_wallet')
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text
        FROM pg_proc AS p
        WHERE p.pronamespace IN ('toll'::regnamespace, 'public'::regnamespace) AND p.proname = ANY (ours)
          AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig) AND p.proowner <> to_regrole('toll_wallet')
    LOOP
        IF NOT super THEN
            RAISE NOTICE 'toll: only a superuser gives % to toll_wallet: let one run roles.sql in this database', object.name;
            RETURN;
        END IF;
        EXECUTE format('ALTER %s %s OWNER TO toll_wallet', object.kind, object.name);
    END LOOP;

    GRANT USAGE ON SCHEMA toll TO toll_wallet, toll_billing;
    REVOKE ALL ON public.accounts, public.pricing_config, public.fx_rates, toll.rated_sessions FROM toll_wallet;
    GRANT SELECT ON public.accounts, public.pricing_config, public.fx_rates, toll.rated_sessions TO toll_wallet;
    GRANT UPDATE (debited) ON toll.rated_sessions TO toll_wallet;

    GRANT SELECT ON public.customer_balance, public.credit_transactions, public.wallet_transactions, public.credit_holds,
        public.low_balance_alerts, toll.wallet_credit, toll.session_credit TO toll_reader, toll_billing;
    EXECUTE format('GRANT SELECT ON toll.session_credit TO %s', rating);
    FOR object IN
        SELECT p.oid::regprocedure::text AS name,
               CASE WHEN p.proname IN ('lock_wallets', 'refresh_credit', 'check_credit', 'debit', 'link_holds', 'release_holds')
                    THEN rating::text
                    WHEN p.proname IN ('get_balance', 'has_sufficient_balance', 'credit_history') THEN 'toll_billing, toll_reader'
                    WHEN p.pronamespace = 'public'::regnamespace THEN 'toll_billing' END AS callers
        FROM pg_proc AS p
        WHERE p.pronamespace IN ('toll'::regnamespace, 'public'::regnamespace) AND p.proname = ANY (ours)
          AND p.proowner = to_regrole('toll_wallet')
    LOOP
        CONTINUE WHEN object.callers IS NULL;
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', object.name, object.callers);
    END LOOP;
END $$;

-- The price book and accounts: who may bill sets prices and makes accounts, by the functions for it.
DO $$
DECLARE
    ours    text[] := ARRAY['set_price', 'end_price', 'withdraw_price', 'set_fx_rate', 'create_account', 'set_plan', 'set_scheme',
                            'start_trial', 'set_markup', 'create_plan', 'set_quota'];
    owner   regrole := (SELECT nspowner FROM pg_namespace WHERE nspname = 'toll');
    object  record;
BEGIN
    IF to_regclass('public.pricing_config') IS NULL OR NOT pg_has_role(current_user, owner, 'USAGE') THEN
        RETURN; -- said above
    END IF;
    FOR object IN
        SELECT 'TABLE' AS kind, c.oid::regclass::text AS name
        FROM pg_class c
        WHERE c.oid IN ('public.accounts'::regclass, 'public.plans'::regclass, 'public.usage_quotas'::regclass,
                        'public.pricing_config'::regclass, 'public.fx_rates'::regclass, to_regclass('public.provider_reconciliation'))
          AND c.relowner <> owner
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text
        FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY (ours) AND p.proowner <> owner
          AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)
    LOOP
        CONTINUE WHEN NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user); -- said above
        EXECUTE format('ALTER %s %s OWNER TO %s', object.kind, object.name, owner);
    END LOOP;
    IF to_regrole('toll_billing') IS NULL OR to_regrole('toll_reader') IS NULL THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA toll TO toll_billing;
    GRANT SELECT ON public.accounts, public.plans, public.usage_quotas, public.pricing_config, public.fx_rates TO toll_reader, toll_billing;
    GRANT SELECT ON public.billing_charges, public.provider_reconciliation, toll.unrated, toll.rating_settings, toll.closed_periods,
        public.credit_transactions, public.wallet_transactions TO toll_reader, toll_billing;
    GRANT EXECUTE ON FUNCTION toll.price_text(public.pricing_config) TO toll_reader, toll_billing;
    GRANT EXECUTE ON FUNCTION toll.read_price_list(json), toll.import_prices(jsonb, timestamptz, text, text, numeric, text),
        toll.import_price_list(json, timestamptz, text, text, numeric, text, text), toll.rate_unrated(integer),
        toll.rerate(timestamptz, timestamptz, boolean), toll.explain_event(bigint), toll.close_period(text, date) TO toll_billing;
    GRANT EXECUTE ON FUNCTION toll.explain_event(bigint) TO toll_reader;
    FOR object IN
        SELECT p.oid::regprocedure::text AS name FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY (ours) AND p.proowner = owner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO toll_billing', object.name);
    END LOOP;
END $$;
