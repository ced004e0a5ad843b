-- Kept plans from when there were no holds took one index of open holds for as good as the other, and read all of it for each account, or each session. So one
-- is for questions by account (credit_holds_open_idx), this one for questions by session.
DROP INDEX public.credit_holds_session_id_idx;
CREATE INDEX credit_holds_session_id_idx ON public.credit_holds (session_id) WHERE session_id IS NOT NULL;
