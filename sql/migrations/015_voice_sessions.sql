-- What a business reported is found without sorting.
CREATE INDEX rated_sessions_voice_idx ON toll.rated_sessions (ended_at) WHERE voice_minutes > 0;
