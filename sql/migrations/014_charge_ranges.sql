-- One index of three columns costs a line a third of what three indexes cost, and finds as much. This locks the table, and reads it once.
DROP INDEX public.billing_charges_event_id_idx, public.billing_charges_occurred_at_idx, public.billing_charges_booked_at_idx;
CREATE INDEX billing_charges_ranges_idx ON public.billing_charges USING brin (event_id, occurred_at, booked_at)
    WITH (pages_per_range = 32, autosummarize = on);
COMMENT ON INDEX public.billing_charges_ranges_idx IS 'Lines of an event, and of a time';
