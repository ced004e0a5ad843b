-- A stream may be known to two daemons. What its sender had acknowledged by one when it went to the other may reach this
-- database later, from the first one's journal: such numbers are no holes, and must not count as applied either.

ALTER TABLE toll.streams ADD COLUMN base bigint NOT NULL DEFAULT 1;
COMMENT ON COLUMN toll.streams.base IS
    'The lowest number that a daemon here was told of. What is below was acknowledged elsewhere, or long ago: no hole, if it is missing';
COMMENT ON COLUMN toll.streams.seen IS 'The numbers applied; one range from base on when nothing is missing';
