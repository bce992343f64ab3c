-- Which programs may work on this schema: those that know at least the migration of this number.
--
-- A migration that only adds leaves the number alone. One that takes away or changes what programs use
-- raises it, in the same file, to the first that does not use it any more.
CREATE TABLE schema_compatibility (
    name       text COLLATE "C" PRIMARY KEY CHECK (name = 'schema'),
    works_from bigint NOT NULL
);
-- What came since has only added.
INSERT INTO schema_compatibility (name, works_from) VALUES ('schema', 5);
