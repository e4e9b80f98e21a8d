CREATE OR REPLACE FUNCTION refuse_run_overlap() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_end BIGINT;
BEGIN
    EXECUTE format(
        'SELECT first_index + entries FROM %I.%I WHERE lane = $1 ORDER BY first_index DESC LIMIT 1',
        TG_TABLE_SCHEMA, TG_TABLE_NAME
    ) INTO last_end USING NEW.lane;
    IF NEW.first_index < last_end THEN
        RAISE EXCEPTION 'horizons: an audit run only follows those before it' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END;
$$;
