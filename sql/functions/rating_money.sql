-- Exact money: division and rounding that take ties to the even digit. (PostgreSQL's round() takes them away from zero.)
--
-- Each is one expression without a search_path of its own, so that the planner puts it in place of the call. The names in such a body are
-- looked up once, when the function is made.

CREATE OR REPLACE FUNCTION toll.divide_half_even(n numeric, d numeric, digits integer)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    -- The commonest: nothing to round.
    WHEN d = 1 AND pg_catalog.scale(n) <= digits THEN pg_catalog.round(n, digits)
    -- div() cuts off. Twice the quotient, cut off, is even below a half, where round() of its half is exact, and odd from a half on, where
    -- round() goes away from zero: right, but for a tie with an even digit below.
    ELSE pg_catalog.round((
        pg_catalog.round(pg_catalog.div(2 * n * pg_catalog.power(10::numeric, digits), d) * 0.5, 0)
        - CASE WHEN pg_catalog.mod(pg_catalog.div(2 * n * pg_catalog.power(10::numeric, digits), d), 2) <> 0
                    AND pg_catalog.mod(2 * n * pg_catalog.power(10::numeric, digits), d) = 0
                    AND pg_catalog.mod(pg_catalog.round(pg_catalog.div(2 * n * pg_catalog.power(10::numeric, digits), d) * 0.5, 0), 2) <> 0
               THEN pg_catalog.sign(n) * pg_catalog.sign(d) ELSE 0 END)
        * pg_catalog.power(10::numeric, -digits), digits)
    END;
REVOKE ALL ON FUNCTION toll.divide_half_even(numeric, numeric, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.divide_half_even(numeric, numeric, integer) IS
    'n / d, rounded once to so many decimals (0 to 30), a tie to the even digit. Exact. NULL where n or d is. Error: division by zero';

CREATE OR REPLACE FUNCTION toll.round_half_even(amount numeric, digits integer)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN pg_catalog.scale(amount) <= digits THEN pg_catalog.round(amount, digits)
    -- round() takes a tie away from zero: back, where that was to an odd digit.
    ELSE pg_catalog.round(
        pg_catalog.round(amount, digits)
        - CASE WHEN pg_catalog.abs(amount - pg_catalog.trunc(amount, digits)) * 2 = pg_catalog.power(10::numeric, -digits)
                    AND pg_catalog.mod(pg_catalog.round(amount, digits) * pg_catalog.power(10::numeric, digits), 2) <> 0
               THEN pg_catalog.sign(amount) * pg_catalog.power(10::numeric, -digits) ELSE 0 END, digits)
    END;
REVOKE ALL ON FUNCTION toll.round_half_even(numeric, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.round_half_even(numeric, integer) IS
    'The amount rounded to so many decimals (0 to 30), a tie to the even digit. NULL where it is NULL';

CREATE OR REPLACE AGGREGATE toll.lcm_of(numeric) (SFUNC = pg_catalog.lcm, STYPE = numeric, INITCOND = '1', PARALLEL = SAFE);
REVOKE ALL ON FUNCTION toll.lcm_of(numeric) FROM PUBLIC;
COMMENT ON AGGREGATE toll.lcm_of(numeric) IS 'The least common multiple of integers; 1 of none. NULLs don''t count';

CREATE OR REPLACE FUNCTION toll.billed_seconds(minutes numeric, minimum integer, increment integer)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN minutes = 0 THEN 0
    ELSE greatest(minimum, CASE
        WHEN increment > 0
        THEN (pg_catalog.div(minutes * 60, increment) + (pg_catalog.mod(minutes * 60, increment) > 0)::integer) * increment
        ELSE minutes * 60 END)
    END;
REVOKE ALL ON FUNCTION toll.billed_seconds(numeric, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION toll.billed_seconds(numeric, integer, integer) IS
    'Seconds that so many minutes of telephony count for: whole increments (0: exact), at least the minimum; 0 if they are 0. NULL where one is NULL';

-- As it was when what a correction adds to a wholly waived charge was waived whatever the trial had left.
DROP FUNCTION IF EXISTS toll.waived_more(numeric, numeric, numeric);
CREATE OR REPLACE FUNCTION toll.given_back(waived numeric, corrected numeric)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(least(waived, corrected), 0) - waived;
REVOKE ALL ON FUNCTION toll.given_back(numeric, numeric) FROM PUBLIC;
COMMENT ON FUNCTION toll.given_back(numeric, numeric) IS
    'What a line adds to the waived part of a charge that it corrects to this: 0, or below 0 what the trial gets back, because no more is waived than is charged.'
    ' What the correction adds to the charge is waived by toll.waive_trials. corrected NULL (no price any more): 0';

CREATE OR REPLACE FUNCTION toll.minutes_due(minutes numeric, charge numeric, waived numeric)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN waived > 0 AND charge > 0 THEN toll.divide_half_even(minutes * (charge - waived), charge, 9) ELSE minutes END;
REVOKE ALL ON FUNCTION toll.minutes_due(numeric, numeric, numeric) FROM PUBLIC;
COMMENT ON FUNCTION toll.minutes_due(numeric, numeric, numeric) IS
    'How many of these billed minutes a wallet in minutes is debited, whose charge is waived so far: the same part of them, rounded half to even to nine decimals.'
    ' All, where the charge is not known (NULL)';

CREATE OR REPLACE FUNCTION toll.unheld(component text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN component || ': the amount is 100000000000 or more: is the price right, and the quantity?';
REVOKE ALL ON FUNCTION toll.unheld(text) FROM PUBLIC;
COMMENT ON FUNCTION toll.unheld(text) IS 'Why an amount of this component is unrated that has more digits than a line holds (eleven before the point)';
