-- What is wrong just now, and was told as an event. The PostgreSQL file of the same number says what the
-- columns are for.
CREATE TABLE alerts (
    scope     TEXT NOT NULL,
    problem   TEXT NOT NULL,
    about     TEXT NOT NULL,
    severity  TEXT NOT NULL,
    words     TEXT NOT NULL,
    raised_at INTEGER NOT NULL,
    PRIMARY KEY (scope, problem, about)
) STRICT;
