-- Whose a live session is, so that its worker learns that its credit is short also when the daemon was restarted and the call is silent.
ALTER TYPE toll.session_change ADD ATTRIBUTE sender_uid bigint, ADD ATTRIBUTE sender_stream uuid;

ALTER TABLE toll.open_sessions ADD COLUMN sender_uid bigint, ADD COLUMN sender_stream uuid;
COMMENT ON COLUMN toll.open_sessions.sender_uid IS 'User id of who sent the call''s first frames; NULL: they had no envelope, or not known';
COMMENT ON COLUMN toll.open_sessions.sender_stream IS 'The stream of that sender';
