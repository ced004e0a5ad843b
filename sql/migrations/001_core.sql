-- The tables users query: sessions, events, transcripts. Their names and columns are a contract (see README.md).
--
-- Events and transcripts are partitioned by month of occurred_at. The partitions live in schema toll, where nobody
-- has to look at them; functions/partitions.sql makes them. Here is only the default partition, which takes what no
-- month does.

CREATE TABLE public.billing_sessions (
    session_id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    started_at          timestamptz NOT NULL,
    ended_at            timestamptz,
    duration_secs       float8,
    finish_reason       text,
    llm_input_tokens    bigint NOT NULL DEFAULT 0,
    llm_output_tokens   bigint NOT NULL DEFAULT 0,
    llm_calls           integer NOT NULL DEFAULT 0,
    tts_chars           bigint NOT NULL DEFAULT 0,
    tts_calls           integer NOT NULL DEFAULT 0,
    stt_audio_ms        float8 NOT NULL DEFAULT 0,
    stt_calls           integer NOT NULL DEFAULT 0,
    metadata            jsonb NOT NULL DEFAULT '{}',
    start_missing       boolean NOT NULL DEFAULT false,
    shared              boolean NOT NULL DEFAULT false,
    owner_journal       uuid,
    owner_writer        integer,
    revision            integer NOT NULL DEFAULT 0,
    duplicate_starts    integer NOT NULL DEFAULT 0,
    duplicate_ends      integer NOT NULL DEFAULT 0,
    started_at_reported timestamptz,
    ended_at_reported   timestamptz,
    sealed              boolean NOT NULL DEFAULT false,
    raw_json            jsonb,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now()
)
-- A session is inserted once and updated when it ends: room on its page for the second version.
WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX billing_sessions_user_id_idx ON public.billing_sessions ((metadata ->> 'user_id'), started_at DESC);
CREATE INDEX billing_sessions_live_owner_idx ON public.billing_sessions (owner_journal, owner_writer)
    WHERE ended_at IS NULL;

COMMENT ON TABLE public.billing_sessions IS
    'One row per call. While a call is live its totals are 0 here (see session_totals); they are written when it'
    ' ends.';
COMMENT ON COLUMN public.billing_sessions.session_id IS 'The UUID the worker gave the call';
COMMENT ON COLUMN public.billing_sessions.started_at IS
    'When the call began; of a call whose start never came (start_missing), the time of its first event';
COMMENT ON COLUMN public.billing_sessions.ended_at IS
    'When the call ended, never before started_at; NULL while it is live. Of an orphaned call: its last activity';
COMMENT ON COLUMN public.billing_sessions.duration_secs IS
    'ended_at - started_at in seconds; NULL while the call is live';
COMMENT ON COLUMN public.billing_sessions.finish_reason IS
    'end, stop, cancel, or what the worker said; orphaned: no end came; NULL while the call is live';
COMMENT ON COLUMN public.billing_sessions.llm_input_tokens IS
    'Sum of input_tokens of the llm events, cached ones included';
COMMENT ON COLUMN public.billing_sessions.llm_output_tokens IS 'Sum of output_tokens of the llm events';
COMMENT ON COLUMN public.billing_sessions.llm_calls IS 'Number of llm events';
COMMENT ON COLUMN public.billing_sessions.tts_chars IS 'Sum of char_count of the tts events';
COMMENT ON COLUMN public.billing_sessions.tts_calls IS 'Number of tts events';
COMMENT ON COLUMN public.billing_sessions.stt_audio_ms IS
    'Sum of audio_duration_ms of the stt events, added in whole microseconds and therefore exact';
COMMENT ON COLUMN public.billing_sessions.stt_calls IS 'Number of stt events';
COMMENT ON COLUMN public.billing_sessions.metadata IS
    'What the worker said about the call: user_id, tenant_id, phone_number, region ... ({} once erased)';
COMMENT ON COLUMN public.billing_sessions.start_missing IS
    'True: no session_start came; the row was made from the first event';
COMMENT ON COLUMN public.billing_sessions.shared IS
    'True: events came through more than one journal or writer, so totals are always summed from the stored events';
COMMENT ON COLUMN public.billing_sessions.owner_journal IS
    'The journal whose daemon keeps the running totals in memory';
COMMENT ON COLUMN public.billing_sessions.owner_writer IS 'The writer within owner_journal';
COMMENT ON COLUMN public.billing_sessions.revision IS
    'How often the totals or the end were corrected after the call had ended';
COMMENT ON COLUMN public.billing_sessions.duplicate_starts IS 'session_start frames after the first';
COMMENT ON COLUMN public.billing_sessions.duplicate_ends IS
    'session_end frames that came after the call had ended and changed nothing';
COMMENT ON COLUMN public.billing_sessions.started_at_reported IS
    'The start as the worker reported it, where its clock was so wrong that started_at was clamped; else NULL';
COMMENT ON COLUMN public.billing_sessions.ended_at_reported IS
    'The end as the worker reported it, where its clock was so wrong that ended_at was clamped; else NULL';
COMMENT ON COLUMN public.billing_sessions.sealed IS
    'True: some of its events were dropped by retention, so totals are no longer compared with stored events';
COMMENT ON COLUMN public.billing_sessions.raw_json IS 'Keys of its session frames that toll does not know';
COMMENT ON COLUMN public.billing_sessions.created_at IS 'When the row was inserted';
COMMENT ON COLUMN public.billing_sessions.updated_at IS 'When the row was last changed';
COMMENT ON INDEX public.billing_sessions_user_id_idx IS
    'For WHERE metadata->>''user_id'' = ... ORDER BY started_at DESC';
COMMENT ON INDEX public.billing_sessions_live_owner_idx IS 'Live sessions, by owner';

CREATE TABLE public.billing_events (
    id                   bigserial NOT NULL,
    session_id           uuid,
    event_type           text NOT NULL,
    provider             text,
    model                text,
    input_tokens         integer,
    output_tokens        integer,
    estimated            boolean,
    char_count           integer,
    voice                text,
    audio_duration_ms    float8,
    occurred_at          timestamptz NOT NULL,
    raw_json             jsonb,
    batch_id             bigint,
    turn_id              uuid,
    agent                text,
    request_id           text,
    language             text,
    cached_input_tokens  integer,
    cache_write_tokens   integer,
    audio_input_tokens   integer,
    cached_audio_tokens  integer,
    audio_output_tokens  integer,
    reasoning_tokens     integer,
    ttfb_ms              float8,
    duration_ms          float8,
    interrupted          boolean,
    meter                text,
    quantity             numeric,
    account              text,
    occurred_at_reported timestamptz,
    CONSTRAINT billing_events_pkey PRIMARY KEY (id, occurred_at),
    CONSTRAINT billing_events_session_id_fkey FOREIGN KEY (session_id)
        REFERENCES public.billing_sessions (session_id),
    CONSTRAINT billing_events_session_or_account_check CHECK (session_id IS NOT NULL OR account IS NOT NULL)
) PARTITION BY RANGE (occurred_at);

CREATE INDEX billing_events_session_id_idx ON public.billing_events (session_id, occurred_at);
-- Rows are appended in batches, so a few bytes per megabyte find a batch's rows again: for verify, and for rating.
CREATE INDEX billing_events_batch_id_idx ON public.billing_events USING brin (batch_id) WITH (autosummarize = on);

CREATE TABLE toll.billing_events_default PARTITION OF public.billing_events DEFAULT;

COMMENT ON TABLE public.billing_events IS
    'One row per metered use: an llm call, a tts synthesis, an stt turn, or any other usage. Append-only.';
COMMENT ON COLUMN public.billing_events.id IS 'Number of the row';
COMMENT ON COLUMN public.billing_events.session_id IS 'The call; NULL only for usage that names an account instead';
COMMENT ON COLUMN public.billing_events.event_type IS 'llm, tts, stt or usage';
COMMENT ON COLUMN public.billing_events.provider IS 'Who served it: openai, deepgram, cartesia ...';
COMMENT ON COLUMN public.billing_events.model IS 'The provider''s model';
COMMENT ON COLUMN public.billing_events.input_tokens IS
    'Input tokens, gross: cached, cache-write and audio tokens are among them';
COMMENT ON COLUMN public.billing_events.output_tokens IS
    'Output tokens, gross: audio and reasoning tokens are among them';
COMMENT ON COLUMN public.billing_events.estimated IS
    'True: the worker estimated the tokens, the provider did not report them';
COMMENT ON COLUMN public.billing_events.char_count IS 'Characters synthesised (tts)';
COMMENT ON COLUMN public.billing_events.voice IS 'The voice (tts)';
COMMENT ON COLUMN public.billing_events.audio_duration_ms IS
    'Length of the audio in milliseconds, to the microsecond (stt, tts)';
COMMENT ON COLUMN public.billing_events.occurred_at IS
    'When it happened, by the worker''s clock (see occurred_at_reported)';
COMMENT ON COLUMN public.billing_events.raw_json IS 'The frame''s own raw map and the keys toll does not know';
COMMENT ON COLUMN public.billing_events.batch_id IS
    'The transaction that stored it (toll.batches); NULL: not stored by toll';
COMMENT ON COLUMN public.billing_events.turn_id IS 'The turn of the conversation it belongs to';
COMMENT ON COLUMN public.billing_events.agent IS 'The agent that made the call';
COMMENT ON COLUMN public.billing_events.request_id IS 'The provider''s request id';
COMMENT ON COLUMN public.billing_events.language IS 'The language recognised (stt)';
COMMENT ON COLUMN public.billing_events.cached_input_tokens IS
    'Of input_tokens, those read from the provider''s cache';
COMMENT ON COLUMN public.billing_events.cache_write_tokens IS
    'Of input_tokens, those written to the provider''s cache';
COMMENT ON COLUMN public.billing_events.audio_input_tokens IS 'Of input_tokens, those that are audio';
COMMENT ON COLUMN public.billing_events.cached_audio_tokens IS
    'Of input_tokens, those that are both cached and audio';
COMMENT ON COLUMN public.billing_events.audio_output_tokens IS 'Of output_tokens, those that are audio';
COMMENT ON COLUMN public.billing_events.reasoning_tokens IS 'Of output_tokens, those spent on reasoning';
COMMENT ON COLUMN public.billing_events.ttfb_ms IS 'Milliseconds until the provider''s first byte';
COMMENT ON COLUMN public.billing_events.duration_ms IS 'Milliseconds the call to the provider took';
COMMENT ON COLUMN public.billing_events.interrupted IS 'True: the caller cut it short';
COMMENT ON COLUMN public.billing_events.meter IS 'What was used (usage): telephony_inbound, sms, storage_mb ...';
COMMENT ON COLUMN public.billing_events.quantity IS 'How much of it, in the meter''s unit (usage)';
COMMENT ON COLUMN public.billing_events.account IS 'The account, for usage outside any call';
COMMENT ON COLUMN public.billing_events.occurred_at_reported IS
    'The time as the worker reported it, where its clock was so wrong that occurred_at was clamped; else NULL';

CREATE TABLE public.session_transcripts (
    id                   bigserial NOT NULL,
    session_id           uuid NOT NULL,
    turn_id              uuid,
    role                 text,
    text                 text,
    language             text,
    interrupted          boolean NOT NULL DEFAULT false,
    occurred_at          timestamptz NOT NULL,
    batch_id             bigint,
    occurred_at_reported timestamptz,
    raw_json             jsonb,
    CONSTRAINT session_transcripts_pkey PRIMARY KEY (id, occurred_at),
    CONSTRAINT session_transcripts_session_id_fkey FOREIGN KEY (session_id)
        REFERENCES public.billing_sessions (session_id)
) PARTITION BY RANGE (occurred_at);

CREATE INDEX session_transcripts_session_id_idx ON public.session_transcripts (session_id, occurred_at);
CREATE INDEX session_transcripts_batch_id_idx ON public.session_transcripts
    USING brin (batch_id) WITH (autosummarize = on);

CREATE TABLE toll.session_transcripts_default PARTITION OF public.session_transcripts DEFAULT;

COMMENT ON TABLE public.session_transcripts IS 'One row per turn of a conversation, the caller''s and the bot''s';
COMMENT ON COLUMN public.session_transcripts.id IS 'Number of the row';
COMMENT ON COLUMN public.session_transcripts.session_id IS 'The call';
COMMENT ON COLUMN public.session_transcripts.turn_id IS 'The turn; its audio is stored elsewhere under the same UUID';
COMMENT ON COLUMN public.session_transcripts.role IS 'user or assistant';
COMMENT ON COLUMN public.session_transcripts.text IS
    'What was said; of an interrupted turn, what the caller actually heard. NULL once erased';
COMMENT ON COLUMN public.session_transcripts.language IS
    'The language spoken, where it is known (user turns). NULL once erased';
COMMENT ON COLUMN public.session_transcripts.interrupted IS 'True: the bot was cut short';
COMMENT ON COLUMN public.session_transcripts.occurred_at IS 'When the turn was complete';
COMMENT ON COLUMN public.session_transcripts.batch_id IS
    'The transaction that stored it (toll.batches); NULL: not stored by toll';
COMMENT ON COLUMN public.session_transcripts.occurred_at_reported IS
    'The time as the worker reported it, where its clock was so wrong that occurred_at was clamped; else NULL';
COMMENT ON COLUMN public.session_transcripts.raw_json IS
    'Keys of the frame that toll does not know. NULL once erased';

COMMENT ON TABLE toll.billing_events_default IS 'Events of months that have no partition';
COMMENT ON TABLE toll.session_transcripts_default IS 'Transcripts of months that have no partition';
