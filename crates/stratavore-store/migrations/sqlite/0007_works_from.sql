-- Which programs may work on this schema. The PostgreSQL file of the same number makes the same table, and
-- says what it is for.
CREATE TABLE schema_compatibility (
    name       TEXT PRIMARY KEY NOT NULL CHECK (name = 'schema'),
    works_from INTEGER NOT NULL
) STRICT;
INSERT INTO schema_compatibility (name, works_from) VALUES ('schema', 5);
