-- Rating looks prices up once for each kind of event in a batch.

-- Collation "C" and no condition: who asks with that collation, and of withdrawn prices later, gets no other index, however small the table was when the
-- question was planned.
CREATE INDEX pricing_config_lookup_idx ON public.pricing_config
    (component COLLATE "C", provider COLLATE "C", model COLLATE "C", scope_id COLLATE "C");
COMMENT ON INDEX public.pricing_config_lookup_idx IS 'What may apply to a kind of event (toll.price_cards)';
