-- Takes from the daemons' role what they do not need: to change the schema, and to change or delete
-- what is on the record. Run it as the owner of the schema, once the schema is there and again after
-- each upgrade:
--
--     stratavored --migrate --config owner.yaml
--     psql --set ON_ERROR_STOP=1 --file rights.sql
--
-- The daemons' role is called stratavore_app here; it exists, and owns nothing.

GRANT USAGE ON SCHEMA public TO stratavore_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO stratavore_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO stratavore_app;

-- The record is only added to. An event gets its position once, which a trigger guards.
REVOKE UPDATE, DELETE ON events, audit_seals, audit_checkpoints FROM stratavore_app;
GRANT UPDATE (position) ON events TO stratavore_app;
REVOKE DELETE ON audit_keys FROM stratavore_app;

-- What was moved into files is removed by a function, which looks for itself that it was and is old.
REVOKE UPDATE, DELETE ON record_trims FROM stratavore_app;
GRANT EXECUTE ON FUNCTION record_remove(bigint) TO stratavore_app;

-- Which migrations were applied, and which programs may work on them, is for the owner to say.
REVOKE INSERT, UPDATE, DELETE ON _sqlx_migrations, schema_compatibility FROM stratavore_app;
