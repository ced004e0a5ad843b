-- For operators: where the daemons stand, what was lost, what was refused, which partitions there are.

CREATE OR REPLACE VIEW toll.stream_holes AS
SELECT s.uid, s.stream_id, s.writer, lower(hole) AS from_seq, upper(hole) - 1 AS to_seq,
       upper(hole) - lower(hole) AS missing, s.client, s.host, s.pid, s.last_seen_at
FROM (
    -- What one writer has seen the others will see: their lag is no hole.
    SELECT t.uid, t.stream_id, (array_agg(t.writer ORDER BY t.last_seen_at DESC, t.writer))[1] AS writer,
           range_agg(t.seen) AS seen, min(t.base) AS base, (array_agg(t.client ORDER BY t.last_seen_at DESC))[1] AS client,
           (array_agg(t.host ORDER BY t.last_seen_at DESC))[1] AS host,
           (array_agg(t.pid ORDER BY t.last_seen_at DESC))[1] AS pid, max(t.last_seen_at) AS last_seen_at
    FROM toll.streams t
    GROUP BY t.uid, t.stream_id) AS s
CROSS JOIN LATERAL unnest(int8multirange(int8range(least(s.base, upper(s.seen)), upper(s.seen))) - s.seen) AS hole
WHERE NOT isempty(s.seen);
COMMENT ON VIEW toll.stream_holes IS
    'Frame numbers that never came though later ones did: visible losses. No rows: none';
COMMENT ON COLUMN toll.stream_holes.uid IS 'User id of the sender';
COMMENT ON COLUMN toll.stream_holes.stream_id IS 'The sending process''s stream';
COMMENT ON COLUMN toll.stream_holes.writer IS 'The writer that heard of the stream last; none of them has seen the numbers';
COMMENT ON COLUMN toll.stream_holes.from_seq IS 'The first number missing';
COMMENT ON COLUMN toll.stream_holes.to_seq IS 'The last number missing';
COMMENT ON COLUMN toll.stream_holes.missing IS 'How many these are';
COMMENT ON COLUMN toll.stream_holes.client IS 'What the sender calls itself';
COMMENT ON COLUMN toll.stream_holes.host IS 'The machine it runs on';
COMMENT ON COLUMN toll.stream_holes.pid IS 'Its process id';
COMMENT ON COLUMN toll.stream_holes.last_seen_at IS 'When its latest frame was received';

CREATE OR REPLACE VIEW toll.journal_status AS
SELECT j.journal_id, j.writer, j.host, j.version, j.lsn, j.created_at, j.seen_at, b.batch_id AS last_batch_id,
       b.committed_at AS last_committed_at, b.last_received_at, b.committed_at - b.last_received_at AS last_delay,
       coalesce(l.sessions, 0) AS live_sessions
FROM toll.journals j
LEFT JOIN (
    SELECT s.owner_journal, s.owner_writer, count(*) AS sessions
    FROM toll.open_sessions o
    JOIN public.billing_sessions s ON s.session_id = o.session_id
    WHERE s.ended_at IS NULL
    GROUP BY s.owner_journal, s.owner_writer) l ON l.owner_journal = j.journal_id AND l.owner_writer = j.writer
LEFT JOIN LATERAL (
    SELECT * FROM toll.batches c
    WHERE c.journal_id = j.journal_id AND c.writer = j.writer
    ORDER BY c.from_lsn DESC LIMIT 1) b ON true;
COMMENT ON VIEW toll.journal_status IS
    'Each journal and writer: its watermark, its last batch, and how far behind that was';
COMMENT ON COLUMN toll.journal_status.journal_id IS 'The journal';
COMMENT ON COLUMN toll.journal_status.writer IS 'The writer';
COMMENT ON COLUMN toll.journal_status.host IS 'The machine its daemon runs on';
COMMENT ON COLUMN toll.journal_status.version IS 'The daemon''s version';
COMMENT ON COLUMN toll.journal_status.lsn IS 'The watermark: everything below is stored';
COMMENT ON COLUMN toll.journal_status.created_at IS 'When the journal was first seen here';
COMMENT ON COLUMN toll.journal_status.seen_at IS 'When its daemon last connected or committed';
COMMENT ON COLUMN toll.journal_status.last_batch_id IS 'Its last batch';
COMMENT ON COLUMN toll.journal_status.last_committed_at IS 'When that was stored';
COMMENT ON COLUMN toll.journal_status.last_received_at IS 'When the last frame in it was received';
COMMENT ON COLUMN toll.journal_status.last_delay IS 'The time between the two';
COMMENT ON COLUMN toll.journal_status.live_sessions IS 'Live sessions it owns';

CREATE OR REPLACE VIEW toll.quarantine_summary AS
SELECT regexp_replace(reason, '[0-9]+', '#', 'g') AS kind, count(*) AS frames, min(reason) AS example,
       count(DISTINCT uid) AS senders, sum(length(bytes))::bigint AS bytes, min(received_at) AS first_at,
       max(received_at) AS last_at, max(id) AS last_id
FROM toll.quarantine
GROUP BY 1;
COMMENT ON VIEW toll.quarantine_summary IS
    'What was refused and why, reasons that differ only in numbers taken together';
COMMENT ON COLUMN toll.quarantine_summary.kind IS 'The reason, with # for every number';
COMMENT ON COLUMN toll.quarantine_summary.frames IS 'How many frames';
COMMENT ON COLUMN toll.quarantine_summary.example IS 'One of the reasons in full';
COMMENT ON COLUMN toll.quarantine_summary.senders IS 'How many user ids sent them';
COMMENT ON COLUMN toll.quarantine_summary.bytes IS 'Their bytes';
COMMENT ON COLUMN toll.quarantine_summary.first_at IS 'When the first was received';
COMMENT ON COLUMN toll.quarantine_summary.last_at IS 'When the last was received';
COMMENT ON COLUMN toll.quarantine_summary.last_id IS 'The last one''s id in toll.quarantine';

CREATE OR REPLACE VIEW toll.partitions AS
SELECT p.relname::text AS parent, c.relname::text AS partition,
       CASE WHEN c.relname ~ '_[0-9]{4}_[0-9]{2}$' THEN to_date(right(c.relname, 7), 'YYYY_MM') END AS month,
       c.reltuples::bigint AS estimated_rows, pg_total_relation_size(c.oid) AS bytes
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
JOIN pg_class p ON p.oid = i.inhparent
WHERE p.oid IN ('public.billing_events'::regclass, 'public.session_transcripts'::regclass)
  AND c.relnamespace = 'toll'::regnamespace
  AND c.relname ~ ('^' || p.relname || '_(default|[0-9]{4}_[0-9]{2})$');
COMMENT ON VIEW toll.partitions IS 'The partitions toll made: see toll.make_partitions, toll.drop_partitions';
COMMENT ON COLUMN toll.partitions.parent IS 'billing_events or session_transcripts';
COMMENT ON COLUMN toll.partitions.partition IS 'The partition, in schema toll';
COMMENT ON COLUMN toll.partitions.month IS 'First day of its month (UTC); NULL: the default partition';
COMMENT ON COLUMN toll.partitions.estimated_rows IS 'Rows at its last vacuum or analyze; -1: none yet';
COMMENT ON COLUMN toll.partitions.bytes IS 'Its size on disk, indexes included';
