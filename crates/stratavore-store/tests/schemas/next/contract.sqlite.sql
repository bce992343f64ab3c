-- A program to come takes away what programs of today use, and says so.
ALTER TABLE runners DROP COLUMN limits;
UPDATE schema_compatibility SET works_from = (SELECT max(version) + 1 FROM _sqlx_migrations);
