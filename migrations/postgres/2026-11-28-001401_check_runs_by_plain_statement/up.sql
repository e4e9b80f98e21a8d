-- The check that runs do not overlap, as a plain statement: it is planned once a session, where the text that was put
-- together for each row was parsed and planned for each row. The schema is written into the function when it is made,
-- so that it names its own table whatever search path the session has; renaming the schema needs it made anew.
DO $do$
BEGIN
    EXECUTE format($make$
        CREATE OR REPLACE FUNCTION refuse_run_overlap() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN
            IF NEW.first_index < (SELECT first_index + entries FROM %I.audit_runs
                                  WHERE lane = NEW.lane ORDER BY first_index DESC LIMIT 1) THEN
                RAISE EXCEPTION 'horizons: an audit run only follows those before it'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END;
        $body$
    $make$, current_schema());
END;
$do$;
