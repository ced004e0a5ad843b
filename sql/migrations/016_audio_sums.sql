-- 4,097 syntheses of the longest duration that a frame can say are more microseconds than a bigint holds. This locks the table, and writes it anew.
ALTER TABLE toll.usage_rollup ALTER COLUMN audio_us TYPE numeric;
