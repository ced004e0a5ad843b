-- Erasure of personal data: what was said and who called goes, what was used and owed stays.
--
-- Rows are blanked, not deleted, so that every count stays right. Not reached: usage rows' own raw_json, frames in
-- quarantine that do not carry the session's id, and what tolld's journal still holds (its retention time bounds
-- that). PostgreSQL's dead row versions go with the next vacuum.

CREATE OR REPLACE FUNCTION toll.erase_sessions(session_ids uuid[])
RETURNS TABLE (sessions bigint, transcripts bigint, gaps bigint, quarantined bigint, live uuid[])
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH s AS (
        UPDATE public.billing_sessions
        SET metadata = '{}', raw_json = NULL, updated_at = now()
        WHERE session_id = ANY (session_ids)
        RETURNING session_id, ended_at
    ), t AS (
        UPDATE public.session_transcripts
        SET text = NULL, language = NULL, raw_json = NULL
        WHERE session_id = ANY (session_ids)
        RETURNING 1
    ), g AS (
        UPDATE toll.gaps
        SET raw_json = NULL
        WHERE session_id = ANY (session_ids) AND raw_json IS NOT NULL
        RETURNING 1
    ), q AS (
        -- A refused frame names its session as 16 bytes or as text.
        UPDATE toll.quarantine
        SET bytes = '', reason = 'erased'
        WHERE EXISTS (SELECT FROM unnest(session_ids) AS id
                      WHERE position(uuid_send(id) IN bytes) > 0
                         OR position(convert_to(id::text, 'UTF8') IN bytes) > 0
                         OR position(convert_to(upper(id::text), 'UTF8') IN bytes) > 0)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM s), (SELECT count(*) FROM t), (SELECT count(*) FROM g), (SELECT count(*) FROM q),
           ARRAY(SELECT session_id FROM s WHERE ended_at IS NULL)
$$;
REVOKE ALL ON FUNCTION toll.erase_sessions(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION toll.erase_sessions(uuid[]) IS 'Erases several sessions at once: see toll.erase_session';

CREATE OR REPLACE FUNCTION toll.erase_session(session_id uuid)
RETURNS TABLE (sessions bigint, transcripts bigint, gaps bigint, quarantined bigint, live uuid[])
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM toll.erase_sessions(ARRAY[session_id])
$$;
REVOKE ALL ON FUNCTION toll.erase_session(uuid) FROM PUBLIC;
COMMENT ON FUNCTION toll.erase_session(uuid) IS
    'Erases a session''s transcript text and metadata; usage rows and totals stay, and so do the transcript''s'
    ' rows, with text NULL. Returns how many rows were blanked. A session in live still goes on and may bring more:'
    ' erase it again when it has ended';

CREATE OR REPLACE FUNCTION toll.erase_user(user_id text)
RETURNS TABLE (sessions bigint, transcripts bigint, gaps bigint, quarantined bigint, live uuid[])
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM toll.erase_sessions(
        ARRAY(SELECT s.session_id FROM public.billing_sessions s WHERE s.metadata ->> 'user_id' = erase_user.user_id))
$$;
REVOKE ALL ON FUNCTION toll.erase_user(text) FROM PUBLIC;
COMMENT ON FUNCTION toll.erase_user(text) IS
    'Erases all sessions whose metadata names this user_id: see toll.erase_session. Afterwards nothing says which'
    ' sessions they were';
