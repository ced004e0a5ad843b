-- Where rating is switched off for good, what waits for it must not wait for ever.

ALTER TABLE toll.rating_settings ADD COLUMN unrated_kept interval CHECK (unrated_kept >= interval '0');
COMMENT ON COLUMN toll.rating_settings.unrated_kept IS
    'How long what is stored and not yet rated is kept for rating; NULL: until it is rated. Where rating is switched off for good (rating.enabled = false for'
    ' every tolld of this database), set it, to 7 days say: else toll.batches keeps a row for every batch, and toll.drop_partitions() refuses. What is older'
    ' may go then, and if rating begins again, it is never rated';
